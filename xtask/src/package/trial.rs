//! CI's trial of what is packaged.
