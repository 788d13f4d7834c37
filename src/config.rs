//! From what the file says (`raw`) to what the program runs on (`checked`), with every problem at once.

pub mod checked;
