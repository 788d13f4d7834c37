//! Table and plot in the documentation.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::options::Options;
use super::plot;
use super::report::Results;

const PAGE: &str = "docs/performance-l7.md";
const PLOT: &str = "docs/performance-l7.svg";
const BEGIN: &str = "<!-- measured: begin -->\n";
const END: &str = "<!-- measured: end -->\n";

/// Puts what was measured between the marks of the page, and draws the plot.
pub(crate) fn write(root: &Path, results: &Results, options: &Options) -> Result<()> {
    let page = root.join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let text = replaced(&text, &results.table(options))
        .with_context(|| format!("{PAGE} has no place for the table"))?;
    fs::write(&page, text)?;
    fs::write(root.join(PLOT), plot::draw(results, options))?;
    println!("{PAGE} and {PLOT} are written");
    Ok(())
}

/// `page` with `table` in place of what is between the marks.
fn replaced(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_between_the_marks() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        let expected = format!("a\n{BEGIN}\nnew\n\n{END}b\n");
        assert_eq!(replaced(&page, "new\n"), Some(expected.clone()));
        assert_eq!(replaced(&expected, "new\n"), Some(expected));
        assert_eq!(replaced("a\n", "new\n"), None);
    }

    #[test]
    fn the_page_has_the_marks() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
        let text = fs::read_to_string(page).expect("the page");
        assert!(replaced(&text, "").is_some());
    }
}
