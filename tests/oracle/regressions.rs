//! Every case in which engine and oracle once disagreed, as small as shrinking made it.
