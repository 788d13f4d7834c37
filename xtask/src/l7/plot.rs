//! A plot of the CPU time for 100,000 requests, as SVG: one row of bars for each case.

use super::case::{Case, Metric};
use super::options::Options;
use super::peer::Peer;
use super::report::Results;
use crate::samples::Spread;

/// Sizes, in pixels.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 130.0;
const FIGURES: f64 = 60.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;
const TOP: f64 = 48.0;

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
            middle + 4.0,
            case.name
        ));
        for (peer, spread) in bars {
            let (end, low, high) = (
                LABELS + spread.median * scale,
                LABELS + spread.low * scale,
                LABELS + spread.high * scale,
            );
            let (middle, colour) = (y + BAR / 2.0, colour(*peer));
            body.push_str(&format!(
                "<rect x=\"{LABELS:.0}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
                 <path d=\"M{low:.1} {middle:.1}H{high:.1}\" stroke=\"#222\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{:.2}</text>\n",
                end - LABELS,
                BAR - 2.0,
                end.max(high) + 5.0,
                middle + 3.5,
                spread.median
            ));
            y += BAR;
        }
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {y:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LABELS:.0}\" y=\"18\">CPU seconds of the proxy for 100,000 requests (line: lowest to highest run)</text>\n\
         {body}</svg>\n"
    )
}

fn legend(peers: &[Peer]) -> String {
    let mut text = String::new();
    let mut x = LABELS;
    for peer in peers {
        let (name, colour) = (peer.name(), colour(*peer));
        text.push_str(&format!(
            "<rect x=\"{x:.0}\" y=\"27\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"36\">{name}</text>\n",
            x + 14.0
        ));
        x += 34.0 + 7.0 * f64::from(u32::try_from(name.len()).unwrap_or(0));
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
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
