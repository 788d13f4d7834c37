//! Fuzz targets: each takes any bytes and panics where what must always hold does not.

pub mod path;
