//! From a rule as written to its clauses, by the engine's own reading of values.

use crate::policy::attribute::Attribute;
use crate::policy::lint::clause::{Part, RuleForm, Test};
use crate::policy::lint::form::{Form, token};
use crate::policy::model::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};
use crate::policy::trust::{expand_principals, expand_trust_domains};
use crate::vocab::cidr::Cidr;
use crate::vocab::field;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// What values are read by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// Our trust domains, own first.
    pub(super) trust_domains: &'a [TrustDomain],
    /// `mesh.pathNormalization`.
    pub(super) paths: PathNormalization,
}

/// A field, its values, and its `not` twin's.
type Field<'s> = (
    &'static str,
    &'static str,
    Attribute,
    &'s Vec<String>,
    &'s Vec<String>,
);

/// The fields of a source. Every field of the model is named here: one that is added and not compared would make
/// rules seem wider than they are.
pub(super) fn source_fields(source: &Source) -> Vec<Field<'_>> {
    let Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
    } = source;
    use Attribute as A;
    vec![
        (
            "principals",
            "notPrincipals",
            A::Principal,
            principals,
            not_principals,
        ),
        (
            "requestPrincipals",
            "notRequestPrincipals",
            A::RequestPrincipal,
            request_principals,
            not_request_principals,
        ),
        (
            "namespaces",
            "notNamespaces",
            A::Namespace,
            namespaces,
            not_namespaces,
        ),
        (
            "serviceAccounts",
            "notServiceAccounts",
            A::ServiceAccount,
            service_accounts,
            not_service_accounts,
        ),
        (
            "trustDomains",
            "notTrustDomains",
            A::TrustDomain,
            trust_domains,
            not_trust_domains,
        ),
        (
            "ipBlocks",
            "notIpBlocks",
            A::SourceIp,
            ip_blocks,
            not_ip_blocks,
        ),
        (
            "remoteIpBlocks",
            "notRemoteIpBlocks",
            A::RemoteIp,
            remote_ip_blocks,
            not_remote_ip_blocks,
        ),
    ]
}

/// The fields of an operation but for its regular expressions.
pub(super) fn operation_fields(operation: &Operation) -> Vec<Field<'_>> {
    let Operation {
        hosts,
        not_hosts,
        ports,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
        path_regexes: _,
        not_path_regexes: _,
    } = operation;
    use Attribute as A;
    vec![
        ("hosts", "notHosts", A::Host, hosts, not_hosts),
        ("ports", "notPorts", A::DestinationPort, ports, not_ports),
        ("methods", "notMethods", A::Method, methods, not_methods),
        ("paths", "notPaths", A::Path, paths, not_paths),
    ]
}

/// One list of values as it is written.
#[derive(Clone, Debug)]
pub(super) struct Written<'r> {
    /// Where it stands, such as `rules[0].from[1].source`.
    pub(super) at: String,
    /// Its key.
    pub(super) key: &'static str,
    /// What it is compared with.
    pub(super) attribute: Attribute,
    pub(super) values: &'r [String],
    pub(super) not: bool,
    pub(super) regex: bool,
    /// It is a list of `when[]`.
    pub(super) in_when: bool,
}

impl Written<'_> {
    /// The field.
    pub(super) fn field(&self) -> String {
        format!("{}.{}", self.at, self.key)
    }

    /// The field of one value.
    pub(super) fn value(&self, index: usize) -> String {
        format!("{}.{}[{index}]", self.at, self.key)
    }
}

/// Every list of values of a rule, in the order of the model.
pub(super) fn written(index: usize, rule: &Rule) -> Vec<Written<'_>> {
    let mut out: Vec<Written<'_>> = Vec::new();
    for (i, source) in rule.from.iter().enumerate() {
        let at = format!("rules[{index}].from[{i}].source");
        out.extend(pairs(&at, source_fields(source)));
    }
    for (i, operation) in rule.to.iter().enumerate() {
        let at = format!("rules[{index}].to[{i}].operation");
        out.extend(pairs(&at, operation_fields(operation)));
        let regexes = [
            ("pathRegexes", &operation.path_regexes, false),
            ("notPathRegexes", &operation.not_path_regexes, true),
        ];
        out.extend(regexes.map(|(key, values, not)| Written {
            at: at.clone(),
            key,
            attribute: Attribute::Path,
            values,
            not,
            regex: true,
            in_when: false,
        }));
    }
    for (i, condition) in rule.when.iter().enumerate() {
        let Ok(attribute) = Attribute::parse_key(&condition.key) else {
            continue;
        };
        let at = format!("rules[{index}].when[{i}]");
        out.extend(
            condition_lists(condition).map(|(key, values, regex, not)| Written {
                at: at.clone(),
                key,
                attribute: attribute.clone(),
                values,
                not,
                regex,
                in_when: true,
            }),
        );
    }
    out.retain(|w| !w.values.is_empty());
    out
}

fn pairs<'s>(at: &str, fields: Vec<Field<'s>>) -> Vec<Written<'s>> {
    let twins = fields
        .into_iter()
        .flat_map(|(key, not_key, attribute, values, not_values)| {
            let twin = attribute.clone();
            [
                (key, attribute, values, false),
                (not_key, twin, not_values, true),
            ]
        });
    let list =
        |(key, attribute, values, not): (&'static str, Attribute, &'s Vec<String>, bool)| Written {
            at: at.to_owned(),
            key,
            attribute,
            values,
            not,
            regex: false,
            in_when: false,
        };
    twins.map(list).collect()
}

/// The lists of a condition: key, values, whether they are regular expressions, whether they are negated.
pub(super) fn condition_lists(
    condition: &Condition,
) -> [(&'static str, &Vec<String>, bool, bool); 4] {
    let Condition {
        key: _,
        values,
        not_values,
        regexes,
        not_regexes,
    } = condition;
    [
        ("values", values, false, false),
        ("notValues", not_values, false, true),
        ("regexes", regexes, true, false),
        ("notRegexes", not_regexes, true, true),
    ]
}

impl Reading<'_> {
    /// Reads a rule; `None` if it is not valid.
    pub(super) fn rule(&self, policy: &AuthorizationPolicy, rule: &Rule) -> Option<RuleForm> {
        let namespace = &policy.name.namespace;
        let Rule { from, to, when } = rule;
        let from = from.iter().map(|s| self.source(namespace, s)).collect();
        let to = to.iter().map(|o| self.operation(namespace, o)).collect();
        let mut tests = Vec::new();
        for condition in when {
            tests.extend(self.condition(policy, condition)?);
        }
        Some(RuleForm {
            from,
            to,
            when: tests,
        })
    }

    fn fields(&self, namespace: &str, fields: Vec<Field<'_>>) -> Vec<Test> {
        let mut out = Vec::new();
        for (key, not_key, attribute, values, not_values) in fields {
            for (key, values, not) in [(key, values, false), (not_key, not_values, true)] {
                if !values.is_empty() {
                    let forms = self.forms(namespace, &attribute, values);
                    out.push(plain(key, attribute.clone(), not, forms, false));
                }
            }
        }
        out
    }

    fn source(&self, namespace: &str, source: &Source) -> Vec<Test> {
        self.fields(namespace, source_fields(source))
    }

    fn operation(&self, namespace: &str, operation: &Operation) -> Vec<Test> {
        let mut out = self.fields(namespace, operation_fields(operation));
        let lists = [
            ("pathRegexes", &operation.path_regexes, false),
            ("notPathRegexes", &operation.not_path_regexes, true),
        ];
        for (key, patterns, not) in lists {
            if !patterns.is_empty() {
                let forms = patterns.iter().map(|p| Form::regex(p)).collect();
                out.push(plain(key, Attribute::Path, not, forms, false));
            }
        }
        out
    }

    fn condition(&self, policy: &AuthorizationPolicy, condition: &Condition) -> Option<Vec<Test>> {
        let attribute = Attribute::parse_key(&condition.key).ok()?;
        let opaque = matches!(
            attribute,
            Attribute::ServiceAccount | Attribute::RequestPrincipal
        );
        let mut tests: Vec<Test> = Vec::new();
        for (key, values, regex, not) in condition_lists(condition) {
            if values.is_empty() {
                continue;
            }
            let forms = match (regex, opaque) {
                (false, _) => self.forms(&policy.name.namespace, &attribute, values),
                // These are compared with another text than values are.
                (true, true) => values.iter().map(|v| opaque_regex(v)).collect(),
                (true, false) => values.iter().map(|v| Form::regex(v)).collect(),
            };
            match tests.first_mut() {
                Some(test) if matches!(attribute, Attribute::Query(_)) => {
                    test.parts.push(Part { not, forms });
                }
                Some(_) | None => tests.push(plain(key, attribute.clone(), not, forms, true)),
            }
        }
        for test in &mut tests {
            test.every = policy.action == Action::Allow;
        }
        Some(tests)
    }

    /// Values of an attribute as the engine compares them.
    pub(super) fn forms(
        &self,
        namespace: &str,
        attribute: &Attribute,
        values: &[String],
    ) -> Vec<Form> {
        let own = self.trust_domains;
        if *attribute == Attribute::Principal {
            let expanded = expand_principals(values, own);
            return expanded.iter().map(|v| principal(v)).collect();
        }
        if *attribute == Attribute::TrustDomain {
            let expanded = expand_trust_domains(values, own);
            return expanded.iter().map(|v| Form::text(v)).collect();
        }
        let form = |value: &String| self.form(namespace, attribute, value);
        values.iter().map(form).collect()
    }

    fn form(&self, namespace: &str, attribute: &Attribute, value: &str) -> Form {
        match attribute {
            Attribute::ServiceAccount => {
                let (namespace, account) = value.split_once('/').unwrap_or((namespace, value));
                Form::Exact(format!("/ns/{namespace}/sa/{account}").into())
            }
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                Cidr::parse(value).map_or(Form::Never("not an address"), Form::Block)
            }
            Attribute::DestinationPort => {
                value.parse().map_or(Form::Never("not a port"), Form::Port)
            }
            Attribute::RequestPrincipal => token(value),
            Attribute::Host => host(value),
            Attribute::Sni => Form::text(&fold(value)),
            Attribute::Header(name) if field::is_caseless(name.as_str()) => {
                Form::text(&value.to_ascii_lowercase())
            }
            Attribute::Path => match path_never(self.paths, value) {
                Some(why) => Form::Never(why),
                None => Form::path(value),
            },
            Attribute::Method => match method_never(value) {
                Some(why) => Form::Never(why),
                None => Form::text(value),
            },
            Attribute::Principal => principal(value),
            Attribute::Namespace
            | Attribute::TrustDomain
            | Attribute::Claim(_)
            | Attribute::Target
            | Attribute::Header(_)
            | Attribute::Query(_) => Form::text(value),
            // Compared by its meaning, which is not looked into here.
            Attribute::Time => Form::Opaque(value.into()),
        }
    }
}

fn plain(
    key: &'static str,
    attribute: Attribute,
    not: bool,
    forms: Vec<Form>,
    in_when: bool,
) -> Test {
    Test {
        attribute,
        parts: vec![Part { not, forms }],
        every: false,
        key,
        in_when,
    }
}

fn opaque_regex(pattern: &str) -> Form {
    Form::Opaque(format!("regex {pattern}").into())
}

fn principal(value: &str) -> Form {
    let form = Form::text(value);
    let whole = form.exact().map(|v| format!("spiffe://{v}"));
    match whole {
        Some(id) if SpiffeId::parse(&id).is_err() => Form::Never("no SPIFFE ID reads so"),
        Some(_) | None => form,
    }
}

/// As hosts are compared: lower case, without the trailing dot of the name.
fn fold(value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    match lower.split_once(".:") {
        Some((name, port)) => format!("{name}:{port}"),
        None => lower
            .strip_suffix('.')
            .map_or_else(|| lower.clone(), str::to_owned),
    }
}

fn host(value: &str) -> Form {
    let form = Form::text(&fold(value));
    match form.exact() {
        Some(text) if Host::parse(text).map_or(true, |h| h.as_str() != text) => {
            Form::Never("no host reads so")
        }
        Some(_) | None => form,
    }
}

/// Methods in one case only; a known one in another is answered 400.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// Why no request has such a method.
pub(super) fn method_never(value: &str) -> Option<&'static str> {
    let known = METHODS
        .iter()
        .any(|m| m.eq_ignore_ascii_case(value) && *m != value);
    known.then_some("methods are upper case, and others are answered 400")
}

/// Why no canonical path is matched by a value of `paths`.
pub(super) fn path_never(mode: PathNormalization, value: &str) -> Option<&'static str> {
    const NOT_NORMAL: &str = "the path is normalized before it is compared, and never reads so under this `mesh.pathNormalization`";
    let form = Form::text(value);
    let (literal, open) = match &form {
        Form::Exact(text) if text.contains('{') => {
            (text.replace("{**}", "x").replace("{*}", "x"), false)
        }
        Form::Exact(text) => (text.to_string(), false),
        Form::Prefix(text) => (text.to_string(), true),
        Form::Suffix(text) => (format!("/x{text}"), false),
        Form::Any
        | Form::Template(_)
        | Form::Regex(_)
        | Form::Block(_)
        | Form::Port(_)
        | Form::Token(_)
        | Form::Opaque(_)
        | Form::Never(_) => return None,
    };
    if value.contains(['?', '#']) {
        return Some("a path holds neither query nor fragment");
    }
    // `{**}` at the start stands for what begins with a slash too.
    let literal = if value.starts_with("{**}") {
        format!("/{literal}")
    } else {
        literal
    };
    if !literal.starts_with('/') {
        return Some("a path begins with `/`");
    }
    let normal = |text: &str| CanonicalPath::parse(mode, text).is_ok_and(|p| p.as_str() == text);
    let fits = if open {
        // What follows may complete a segment or a percent-encoding.
        let digits = "0123456789ABCDEFabcdef";
        normal(&literal)
            || normal(&format!("{literal}x"))
            || digits
                .chars()
                .any(|d| normal(&format!("{literal}{d}")) || normal(&format!("{literal}2{d}")))
    } else {
        normal(&literal)
    };
    (!fits).then_some(NOT_NORMAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_never_are() {
        use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Raw};
        for (mode, value, never) in [
            (Base, "/a", false),
            (Base, "/a/../b", true),
            (Base, "/a/.", true),
            (Base, "/a/.*", false),
            (Base, "/a/./*", true),
            (Base, "/%61", true),
            (Base, "/%6*", false),
            (Base, "/a%*", false),
            (Base, "/%20b", false),
            (Base, "/a//b", false),
            (MergeSlashes, "/a//b", true),
            (MergeSlashes, "/a/*", false),
            (MergeSlashes, "/a//*", true),
            (MergeSlashes, "*//b", true),
            (MergeSlashes, "*/b", false),
            (MergeSlashes, "/a%2fb", false),
            (DecodeAndMergeSlashes, "/a%2fb", true),
            (DecodeAndMergeSlashes, "/a%2*", false),
            (DecodeAndMergeSlashes, "/a%2f*", true),
            (Base, "/a\\b", true),
            (Raw, "/a/../b", false),
            (Raw, "/a b", true),
            (Base, "/a/{*}", false),
            (Base, "/a/../{*}", true),
            (Base, "{**}", false),
            (Base, "{*}/a", true),
            (Base, "a", true),
            (Base, "/a?b", true),
            (Base, "*", false),
        ] {
            assert_eq!(path_never(mode, value).is_some(), never, "{mode:?} {value}");
        }
    }

    #[test]
    fn hosts_and_methods() {
        assert!(host("https://a.com").is_never() && host("a.com/x").is_never());
        assert!(host("a.com:080").is_never() && !host("A.com.").is_never());
        assert!(!host("*.a.com").is_never() && !host("a.com:*").is_never());
        assert_eq!(host("A.com.").exact(), Some("a.com"));
        assert!(method_never("get").is_some() && method_never("GET").is_none());
        assert!(method_never("purge").is_none() && method_never("ge*").is_none());
        assert!(principal("cluster.local/ns/*/sa/b").is_never());
        assert!(!principal("cluster.local/ns/a/sa/b").is_never());
    }
}
