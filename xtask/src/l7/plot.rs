//! A plot of the CPU time for 100,000 requests, as SVG: one row of bars for each case, with what is wanted of ringgate.

use super::case::{Case, Metric};
use super::options::Options;
use super::peer::Peer;
use super::report::{self, Results};
use crate::samples::Spread;

/// Sizes, in pixels.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 110.0;
const FIGURES: f64 = 150.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;
const TOP: f64 = 66.0;
/// Of a letter.
const LETTER: f64 = 7.0;

/// Colours of text and lines on a light page and on a dark one; there is no ground of our own.
const STYLE: &str = "<style>text{fill:#24292f}.line{stroke:#24292f}.wanted{stroke:#d1242f}\
                     @media (prefers-color-scheme:dark){text{fill:#e6edf3}.line{stroke:#e6edf3}.wanted{stroke:#ff7b72}}</style>\n";

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Ringgate => "#0b7a75",
        Peer::RinggateEpoll => "#63b3ac",
        Peer::Envoy => "#b5408a",
        Peer::EnvoyJwtCache => "#d9a3c7",
        Peer::Haproxy => "#4a6fb3",
        Peer::Nginx => "#9aa0a6",
    }
}

/// The bars of a case: peer, median, lowest and highest.
fn bars(results: &Results, case: &Case, peers: &[Peer]) -> Vec<(Peer, Spread)> {
    let of = |peer: &Peer| {
        let spread = results.spread(case.name, *peer, Metric::CpuPer100k)?;
        Some((*peer, spread))
    };
    peers.iter().filter_map(of).collect()
}

/// What is wanted of ringgate in a case, as CPU time: a part of what another took.
fn wanted(results: &Results, case: &Case, peer: Peer) -> Vec<f64> {
    if peer != Peer::Ringgate {
        return Vec::new();
    }
    let goals = report::parts(case.name, Metric::CpuPer100k);
    let others = goals.filter_map(|(other, part)| {
        let spread = results.spread(case.name, other, Metric::CpuPer100k)?;
        Some(spread.median * part)
    });
    others.collect()
}

/// What ringgate took as parts of what others took.
fn ratios(results: &Results, case: &Case, peer: Peer, median: f64) -> String {
    let others = report::COMPARED.iter().filter(|_| peer == Peer::Ringgate);
    let ratios = others.filter_map(|(other, sign)| {
        let spread = results.spread(case.name, *other, Metric::CpuPer100k)?;
        Some(format!(" {:.2}{sign}", median / spread.median))
    });
    ratios.collect()
}

/// One bar at `y`.
fn bar(
    results: &Results,
    case: &Case,
    (peer, spread): &(Peer, Spread),
    y: f64,
    scale: f64,
) -> String {
    let at = |value: f64| LABELS + value * scale;
    let (end, low, high) = (at(spread.median), at(spread.low), at(spread.high));
    let (middle, colour) = (y + (BAR - 2.0) / 2.0, colour(*peer));
    let mut text = format!(
        "<rect x=\"{LABELS:.0}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
         <path class=\"line\" d=\"M{low:.1} {middle:.1}H{high:.1}\"/>\n",
        end - LABELS,
        BAR - 2.0,
    );
    let mut right = end.max(high);
    for wanted in wanted(results, case, *peer) {
        let x = at(wanted);
        right = right.max(x);
        text.push_str(&format!(
            "<path class=\"wanted\" d=\"M{x:.1} {:.1}V{:.1}\" stroke-width=\"2\"/>\n",
            y - 2.0,
            y + BAR
        ));
    }
    text.push_str(&format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{:.2}{}</text>\n",
        right + 5.0,
        middle + 3.5,
        spread.median,
        ratios(results, case, *peer, spread.median)
    ));
    text
}

/// Draws what was measured.
pub(crate) fn draw(results: &Results, options: &Options) -> String {
    let rows: Vec<_> = options
        .cases
        .iter()
        .map(|case| (case, bars(results, case, &options.peers)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let most = rows
        .iter()
        .flat_map(|(_, bars)| bars.iter().map(|(_, spread)| spread.high))
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - FIGURES) / most;
    let mut body = legend(&options.peers);
    let mut y = TOP;
    for (case, bars) in &rows {
        let middle = y + BAR * 0.5 * f64::from(u32::try_from(bars.len()).unwrap_or(0));
        body.push_str(&format!(
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LABELS - 8.0,
            middle + 3.0,
            case.name
        ));
        for one in bars {
            body.push_str(&bar(results, case, one, y, scale));
            y += BAR;
        }
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {y:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n{STYLE}\
         <text x=\"{LABELS:.0}\" y=\"18\">CPU seconds of the proxy for 100,000 requests (thin line: lowest to highest run)</text>\n\
         <text x=\"{LABELS:.0}\" y=\"34\" font-size=\"10\">×e, ×h, ×n: as parts of Envoy's, HAProxy's, nginx's; upright \
         marks: wanted at most</text>\n\
         {body}</svg>\n"
    )
}

fn legend(peers: &[Peer]) -> String {
    let mut text = String::new();
    let mut x = LABELS;
    for peer in peers {
        let (name, colour) = (peer.name(), colour(*peer));
        text.push_str(&format!(
            "<rect x=\"{x:.0}\" y=\"43\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"52\">{name}</text>\n",
            x + 14.0
        ));
        x += 34.0 + LETTER * f64::from(u32::try_from(name.len()).unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_what_they_show() {
        let words = ["--cases", "w-h1,idle", "--peers", "ringgate,envoy"];
        let options = Options::parse(&words).expect("valid");
        let mut results = Results::default();
        let w = options.cases.last().expect("two cases");
        for (peer, value) in [(Peer::Ringgate, 2.0), (Peer::Envoy, 10.0)] {
            results.add(w, peer, vec![(Metric::CpuPer100k, value)]);
        }
        let svg = draw(&results, &options);
        let full = WIDTH - LABELS - FIGURES;
        for width in [full, full / 5.0] {
            assert!(svg.contains(&format!("width=\"{width:.1}\"")), "{svg}");
        }
        assert!(!svg.contains(">idle<"), "it has no CPU time");
        // A fifth of Envoy's is what is wanted, and what it is.
        assert!(svg.contains(">2.00 0.20×e<"), "{svg}");
        let end = LABELS + full / 5.0;
        assert!(
            svg.contains(&format!("class=\"wanted\" d=\"M{end:.1} ")),
            "{svg}"
        );
        assert_eq!(svg.matches("class=\"wanted\"").count(), 1, "{svg}");
        assert!(svg.matches("http").count() == 1, "it needs nothing else");
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
