//! `[[revocation]]`, a table of ours.

use crate::config::place::At;
use crate::config::read::table;

table! {
    /// `[[revocation]]`: one of `serial`, `id` and `node`.
    Revocation {
        serial: Option<At<String>> = "serial",
        id: Option<At<String>> = "id",
        node: Option<At<String>> = "node",
        reason: Option<At<String>> = "reason",
    }
}
