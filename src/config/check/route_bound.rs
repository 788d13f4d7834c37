//! What a request would be compared with one by one, because nothing tells it apart (`role/routes/tree.rs`), has to be little.

use std::collections::BTreeMap;

use crate::config::check::Context;
use crate::config::checked::Mesh;
use crate::config::checked::route::{FieldMatch, PathMatch, RouteMatch, RouteParent, ValueMatch};
use crate::config::raw::File;
use crate::policy::Regexes;
use crate::vocab::limits;

/// Where matches stand in one list: at a gateway (else a service), which one, for this host, and a path; of all regular
/// expressions together `None`.
type Scope<'m> = (bool, usize, &'m str, Option<(bool, &'m str)>);

/// Segments that a regular expression may be found by.
const SEGMENTS: usize = 8;

/// Refuses routes with too many matches that ask for the same.
pub(super) fn bounded(files: &[File], mesh: &Mesh, regexes: &mut Regexes, cx: &mut Context<'_>) {
    let mut lists: BTreeMap<Scope<'_>, Vec<(usize, &RouteMatch)>> = BTreeMap::new();
    for (nth, route) in mesh.routes.iter().enumerate() {
        for one in route.rules.iter().flat_map(|r| &r.matches) {
            let path = match &one.path {
                PathMatch::Exact(path) => Some((true, path.as_str())),
                PathMatch::Prefix(path) => Some((false, path.as_str())),
                PathMatch::Regex(_) => None,
            };
            for parent in &route.parents {
                let (at_gateway, at) = match parent {
                    RouteParent::Gateway(at) => (true, *at),
                    RouteParent::Service(at, _) => (false, *at),
                };
                let hosts = route.hostnames.iter().map(String::as_str);
                let named = at_gateway && !route.hostnames.is_empty();
                let any = (!named).then_some("*");
                for host in any.into_iter().chain(hosts.filter(|_| named)) {
                    let list = lists.entry((at_gateway, at, host, path)).or_default();
                    list.push((nth, one));
                }
            }
        }
    }
    let mut over: BTreeMap<usize, usize> = BTreeMap::new();
    for ((.., path), list) in lists {
        let most = match path {
            Some(_) => limits::ROUTE_MATCHES_PER_PATH,
            None => limits::ROUTE_REGEXES_PER_HOST,
        };
        if list.len() > most {
            for route in alike(&list, most, regexes) {
                over.entry(route).or_insert(most);
            }
        }
    }
    let written = files.iter().flat_map(|f| f.http_route.iter().flatten());
    for (nth, raw) in written.enumerate() {
        if let Some(most) = over.get(&nth) {
            let what = "matches of one path, or regular expressions, for one host ask for the same";
            cx.out
                .error(&raw.name.place, format!("more than {most} {what}"));
        }
    }
}

/// The routes of those matches that come after `most` others of the same rarest key.
fn alike(list: &[(usize, &RouteMatch)], most: usize, regexes: &mut Regexes) -> Vec<usize> {
    let keys: Vec<Vec<String>> = list.iter().map(|(_, one)| keys(one, regexes)).collect();
    let mut shared: BTreeMap<&str, usize> = BTreeMap::new();
    for key in keys.iter().flatten() {
        *shared.entry(key).or_default() += 1;
    }
    let mut taken: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let mut over = Vec::new();
    for ((route, _), keys) in list.iter().zip(&keys) {
        let rarest = keys.iter().min_by_key(|key| shared.get(key.as_str()));
        let count = taken.entry(rarest.map(String::as_str)).or_default();
        *count += 1;
        if *count > most {
            over.push(*route);
        }
    }
    over
}

/// What a request must bring for a match.
fn keys(one: &RouteMatch, regexes: &mut Regexes) -> Vec<String> {
    let mut keys = Vec::new();
    if let PathMatch::Regex(pattern) = &one.path
        && let Ok(regex) = regexes.whole(pattern)
    {
        let segment = |at| {
            regex
                .segment(at)
                .map(|text| format!("segment {at} {text:?}"))
        };
        keys.extend((0..SEGMENTS).filter_map(segment));
        let ends = [("prefix", regex.prefix().0), ("suffix", regex.suffix())];
        let ends = ends.into_iter().filter(|(_, text)| !text.is_empty());
        keys.extend(ends.map(|(what, text)| format!("{what} {text:?}")));
    }
    keys.extend(one.method.iter().map(|method| format!("method {method}")));
    let mut fields = |what: &str, all: &[FieldMatch]| {
        keys.extend(all.iter().map(|field| match &field.value {
            ValueMatch::Exact(value) => format!("{what} {}={value}", field.name),
            ValueMatch::Regex(_) => format!("{what} {}", field.name),
        }));
    };
    fields("header", &one.headers);
    fields("query", &one.query);
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config;

    fn problems(matches: impl Iterator<Item = String>) -> Vec<String> {
        let rules = matches.map(|one| {
            format!("{{ matches = [{{ {one} }}], backendRefs = [{{ name = \"a\", port = 80 }}] }}")
        });
        let text = format!(
            "[authority]\nstateDir = \"state\"\n\n[[gateway]]\nname = \"in\"\ngatewayClassName = \"ringgate-ingress\"\n\
             address = \"10.0.0.9\"\n\n[[serviceEntry]]\nname = \"a\"\nhosts = [\"a\"]\n\
             ports = [{{ number = 80, name = \"http\", protocol = \"HTTP\" }}]\nlocation = \"MESH_INTERNAL\"\n\
             resolution = \"STATIC\"\nworkloadSelector.labels = {{ app = \"a\" }}\n\n[[httpRoute]]\nname = \"r\"\n\
             parentRefs = [{{ name = \"in\" }}]\nrules = [{}]\n",
            rules.collect::<Vec<_>>().join(", ")
        );
        match config::parse(&[("mesh.toml".into(), text)], Path::new("")) {
            Ok(_) => Vec::new(),
            Err(problems) => vec![problems.to_string()],
        }
    }

    #[test]
    fn what_something_tells_apart_may_be_much() {
        let header = |n: usize| format!("headers = [{{ name = \"x\", value = \"{n}\" }}]");
        let regex = |n: usize| {
            format!("path = {{ type = \"RegularExpression\", value = \"/v[0-9]/r{n}/.*\" }}")
        };
        let alike = |n: usize| {
            format!("path = {{ type = \"RegularExpression\", value = \"/(?:a|b{n}).*\" }}")
        };
        assert_eq!(problems((0..300).map(header)), [] as [String; 0]);
        assert_eq!(problems((0..300).map(regex)), [] as [String; 0]);
        assert_eq!(problems((0..64).map(alike)), [] as [String; 0]);
        let told = problems((0..65).map(alike));
        assert!(
            told.len() == 1 && told[0].contains("more than 64 "),
            "{told:?}"
        );
        let same = |n: usize| {
            format!(
                "headers = [{{ name = \"x\", type = \"RegularExpression\", value = \"{n}.*\" }}]"
            )
        };
        let told = problems((0..257).map(same));
        assert!(
            told.len() == 1 && told[0].contains("more than 256 "),
            "{told:?}"
        );
    }
}
