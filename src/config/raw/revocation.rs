//! `[[revocation]]`, a table of ours.

use crate::config::place::At;
use crate::config::read::table;

table! {
    /// `[[revocation]]`: one of `serial`, `id` and `node`.
    Revocation {
        /// Serial number of a certificate, hexadecimal.
        /// Example: `"0a1b2c"`
        serial: Option<At<String>> = "serial",
        /// SPIFFE ID.
        /// Example: `"spiffe://cluster.local/ns/shop/sa/web"`
        id: Option<At<String>> = "id",
        /// Node.
        /// Example: `"vm-1"`
        node: Option<At<String>> = "node",
        /// Why, for the list of revocations.
        /// Example: `"stolen"`
        reason: Option<At<String>> = "reason",
    }
}
