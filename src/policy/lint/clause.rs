//! A rule as clauses: one source, one operation and every condition, all of whose tests must hold. What is said of
//! clauses is said for certain, or not at all.

use crate::policy::attribute::Attribute;
use crate::policy::lint::form::Form;
use crate::vocab::spiffe::SpiffeId;

/// Clauses of a rule that are looked at; one with more is not compared.
const CLAUSES: usize = 256;

/// One field or condition.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) attribute: Attribute,
    /// All of these hold of one value; a field has one of them, a condition on a query parameter as many as it has lists.
    pub(super) parts: Vec<Part>,
    /// A query parameter: every occurrence must hold (ALLOW), not just one.
    pub(super) every: bool,
    /// Its key below the source, operation or condition, such as `principals`.
    pub(super) key: &'static str,
    /// It stands in `when`.
    pub(super) in_when: bool,
}

/// Some value matches, or with `not` none does.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) not: bool,
    pub(super) forms: Vec<Form>,
}

/// A rule.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleForm {
    pub(super) from: Vec<Vec<Test>>,
    pub(super) to: Vec<Vec<Test>>,
    pub(super) when: Vec<Test>,
}

/// One way to match a rule.
#[derive(Clone, Debug)]
pub(super) struct Clause<'r> {
    pub(super) tests: Vec<&'r Test>,
}

/// Why a clause can never match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Never {
    /// No value of this field can match.
    Values(&'static str),
    /// These two fields leave nothing.
    Fields(String, String),
}

impl Part {
    fn all(&self, wide: &Self, filled: bool) -> bool {
        let within = |f: &Form| wide.forms.iter().any(|w| f.within(w, filled));
        self.forms.iter().all(within)
    }

    fn apart(&self, other: &Self) -> bool {
        let apart = |f: &Form| other.forms.iter().all(|o| f.apart(o));
        self.forms.iter().all(apart)
    }

    /// Whether `wide` holds wherever this holds. `single`: the attribute has one value at most.
    fn implies(&self, wide: &Self, single: bool, filled: bool) -> bool {
        match (self.not, wide.not) {
            (false, false) => self.all(wide, filled),
            (true, true) => wide.all(self, filled),
            (false, true) => single && self.apart(wide),
            (true, false) => false,
        }
    }

    /// Whether both cannot hold.
    fn excludes(&self, other: &Self, single: bool, filled: bool) -> bool {
        match (self.not, other.not) {
            (false, true) => self.all(other, filled),
            (true, false) => other.all(self, filled),
            (false, false) => single && self.apart(other),
            (true, true) => false,
        }
    }

    /// Whether it holds of one value; `None` if that is not known.
    pub(super) fn holds(&self, value: &str) -> Option<bool> {
        let mut unknown = false;
        for form in &self.forms {
            match form.takes(value) {
                Some(true) => return Some(!self.not),
                Some(false) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(self.not)
    }
}

/// Whether the attribute has one value at most.
fn single(attribute: &Attribute) -> bool {
    !matches!(attribute, Attribute::Claim(_) | Attribute::Header(_))
}

/// Whether a value of it is never empty, or an empty one counts for `*` too.
fn filled(attribute: &Attribute) -> bool {
    !matches!(attribute, Attribute::Claim(_) | Attribute::Sni)
}

/// Whether it is read from the peer's identity.
pub(super) fn of_identity(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
    )
}

impl Test {
    /// Whether it asks for a value to be there, rather than not to be.
    pub(super) fn positive(&self) -> bool {
        self.parts.iter().any(|p| !p.not)
    }

    fn is_query(&self) -> bool {
        matches!(self.attribute, Attribute::Query(_))
    }

    /// Whether it is unknown on a bare connection, in either dialect (policy semantics section 5).
    pub(super) fn is_http(&self) -> bool {
        let for_ztunnel = matches!(self.attribute, Attribute::RemoteIp | Attribute::Sni)
            || (self.in_when
                && matches!(
                    self.attribute,
                    Attribute::ServiceAccount | Attribute::TrustDomain
                ));
        self.attribute.needs_http() || for_ztunnel
    }

    /// Every value it asks for, if all are compared exactly.
    pub(super) fn exact(&self) -> Option<Vec<&str>> {
        let part = self.parts.iter().find(|p| !p.not)?;
        let forms = part.forms.iter().filter(|f| !f.is_never());
        forms.map(Form::exact).collect()
    }

    /// Whether `wide`, on the same attribute, holds wherever this holds.
    fn implies(&self, wide: &Self) -> bool {
        if wide.is_query() && wide.every && !self.every {
            return false;
        }
        // Occurrences of a parameter are judged one by one.
        let (single, filled) = (single(&self.attribute), filled(&self.attribute));
        let absent = !self.is_query()
            || self.parts.iter().any(|p| !p.not)
            || wide.parts.iter().all(|p| p.not);
        let implied = |w: &Part| self.parts.iter().any(|p| p.implies(w, single, filled));
        absent && wide.parts.iter().all(implied)
    }

    /// Whether both, on the same attribute, cannot hold.
    fn excludes(&self, other: &Self) -> bool {
        let (single, filled) = (single(&self.attribute), filled(&self.attribute));
        let excludes = |p: &Part| other.parts.iter().any(|o| p.excludes(o, single, filled));
        // Two conditions on one parameter may be met by two occurrences of it.
        !self.is_query() && self.parts.iter().any(excludes)
    }

    /// Why it can never hold.
    fn never(&self) -> Option<Never> {
        let no_form = |p: &Part| !p.not && p.forms.iter().all(Form::is_never);
        if self.parts.iter().any(no_form) {
            return Some(Never::Values(self.key));
        }
        let pairs = |p: &Part| self.parts.iter().any(|o| p.excludes(o, true, true));
        (self.is_query() && self.positive() && self.parts.iter().any(pairs))
            .then(|| Never::Fields(self.name(), self.name()))
    }

    /// How a message calls it: the field, or for a condition what its key names.
    pub(super) fn name(&self) -> String {
        if self.in_when {
            format!("`{}` of {}", self.key, self.attribute)
        } else {
            format!("`{}`", self.key)
        }
    }
}

impl RuleForm {
    /// All tests, in the order in which they are written.
    pub(super) fn tests(&self) -> impl Iterator<Item = &Test> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }

    /// Whether any test is unknown on a bare connection.
    pub(super) fn is_http(&self) -> bool {
        self.tests().any(Test::is_http)
    }

    /// Every clause; `None` if there are too many.
    pub(super) fn clauses(&self) -> Option<Vec<Clause<'_>>> {
        let (from, to) = (self.from.len().max(1), self.to.len().max(1));
        (from * to <= CLAUSES).then(|| {
            let pairs = (0..from).flat_map(|f| (0..to).map(move |t| (f, t)));
            pairs.map(|(f, t)| self.clause(f, t)).collect()
        })
    }

    /// The clause of one source and one operation; an index of an absent list is 0.
    pub(super) fn clause(&self, from: usize, to: usize) -> Clause<'_> {
        let lists = [self.from.get(from), self.to.get(to)];
        let tests = lists.into_iter().flatten().flatten().chain(&self.when);
        Clause {
            tests: tests.collect(),
        }
    }

    /// Whether this rule matches whatever `clause` matches, where HTTP is understood.
    pub(super) fn covers(&self, clause: &Clause<'_>) -> bool {
        let any = |lists: &[Vec<Test>]| {
            lists.is_empty() || lists.iter().any(|l| l.iter().all(|t| clause.implies(t)))
        };
        any(&self.from) && any(&self.to) && self.when.iter().all(|t| clause.implies(t))
    }

    /// Whether this rule matches whatever `other` matches, where HTTP is understood.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other
            .clauses()
            .is_some_and(|clauses| clauses.iter().all(|c| self.covers(c)))
    }
}

impl Clause<'_> {
    /// Principals that the clause can match, if they can be listed.
    pub(super) fn principals(&self) -> Option<Vec<SpiffeId>> {
        let listed = self
            .tests
            .iter()
            .find(|t| t.attribute == Attribute::Principal && t.exact().is_some())?;
        let ids = listed.exact()?.into_iter();
        let ids = ids.filter_map(|p| SpiffeId::parse(&format!("spiffe://{p}")).ok());
        let fits = |id: &SpiffeId| {
            let mut of_peer = self.tests.iter().filter(|t| of_identity(&t.attribute));
            of_peer.all(|t| holds_of(t, id) != Some(false))
        };
        Some(ids.filter(fits).collect())
    }

    /// Namespaces and accounts, `/ns/<namespace>/sa/<account>`, if the clause lists service accounts.
    fn accounts(&self) -> Option<Vec<&str>> {
        let mut tests = self.tests.iter();
        let listed = tests.find(|t| t.attribute == Attribute::ServiceAccount)?;
        listed.exact()
    }

    fn implies(&self, wide: &Test) -> bool {
        let mut own = self.tests.iter().filter(|t| t.attribute == wide.attribute);
        own.any(|t| t.implies(wide)) || self.peer_implies(wide)
    }

    /// As `implies`, across the four attributes of the peer's identity.
    fn peer_implies(&self, wide: &Test) -> bool {
        if !of_identity(&wide.attribute) {
            return false;
        }
        if let Some(ids) = self.principals() {
            return !ids.is_empty() && ids.iter().all(|id| holds_of(wide, id) == Some(true));
        }
        let accounts = self
            .accounts()
            .filter(|_| wide.attribute == Attribute::Namespace);
        accounts.is_some_and(|a| {
            !a.is_empty() && a.iter().all(|path| in_namespace(wide, path) == Some(true))
        })
    }

    /// Why no request can match it.
    pub(super) fn never(&self) -> Option<Never> {
        if let Some(why) = self.tests.iter().find_map(|t| t.never()) {
            return Some(why);
        }
        for (i, test) in self.tests.iter().enumerate() {
            let earlier = self.tests.get(..i).unwrap_or_default();
            let clash = |t: &&&Test| t.attribute == test.attribute && t.excludes(test);
            if let Some(other) = earlier.iter().find(clash) {
                return Some(Never::Fields(other.name(), test.name()));
            }
        }
        self.peers_clash()
    }

    /// Fields that are read from one identity and leave nobody.
    fn peers_clash(&self) -> Option<Never> {
        let of_peer: Vec<&&Test> = self
            .tests
            .iter()
            .filter(|t| of_identity(&t.attribute))
            .collect();
        let principal = of_peer
            .iter()
            .find(|t| t.attribute == Attribute::Principal && t.positive());
        let other = of_peer
            .iter()
            .find(|t| t.attribute != Attribute::Principal)?;
        let fields = |a: &Test| Some(Never::Fields(a.name(), other.name()));
        if let Some(principal) = principal {
            if self.principals().is_some_and(|ids| ids.is_empty()) {
                return fields(principal);
            }
            let namespaces = of_peer
                .iter()
                .find(|t| t.attribute == Attribute::Namespace && t.positive())?;
            let forms = principal.parts.iter().flat_map(|p| &p.forms);
            let outside = |f: &Form| {
                namespace_of(f).is_some_and(|ns| {
                    let part = namespaces.parts.first();
                    part.and_then(|p| p.holds(ns)) == Some(false)
                })
            };
            let mut forms = forms.peekable();
            let all = forms.peek().is_some() && forms.all(outside);
            return all.then(|| Never::Fields(principal.name(), namespaces.name()));
        }
        let accounts = self.accounts()?;
        let namespaces = of_peer
            .iter()
            .find(|t| t.attribute == Attribute::Namespace)?;
        let all = !accounts.is_empty()
            && accounts
                .iter()
                .all(|path| in_namespace(namespaces, path) == Some(false));
        all.then(|| Never::Fields("`serviceAccounts`".to_owned(), namespaces.name()))
    }

    /// Whether no request matches both. `bare`: nor a connection whose HTTP nobody reads.
    pub(super) fn apart(&self, other: &Clause<'_>, bare: bool) -> bool {
        let counts = |t: &Test| !bare || !t.attribute.needs_http();
        for test in self.tests.iter().filter(|t| counts(t)) {
            let clash = |t: &&Test| t.attribute == test.attribute && t.excludes(test);
            if other.tests.iter().any(clash) {
                return true;
            }
        }
        let nobody = |ids: Option<Vec<SpiffeId>>, tests: &[&Test]| {
            let refused = |id: &SpiffeId| {
                let mut of_peer = tests.iter().filter(|t| of_identity(&t.attribute));
                of_peer.any(|t| holds_of(t, id) == Some(false))
            };
            ids.is_some_and(|ids| ids.iter().all(refused))
        };
        nobody(self.principals(), &other.tests) || nobody(other.principals(), &self.tests)
    }

    /// Whether a peer of this identity may match it.
    pub(super) fn may_be(&self, id: &SpiffeId) -> bool {
        let mut of_peer = self.tests.iter().filter(|t| of_identity(&t.attribute));
        of_peer.all(|t| holds_of(t, id) != Some(false))
    }

    /// Whether it cannot match a CONNECT, which has no path.
    pub(super) fn never_connects(&self) -> bool {
        self.tests.iter().any(|t| {
            let path = matches!(t.attribute, Attribute::Path | Attribute::Target) && t.positive();
            let method = t.attribute == Attribute::Method
                && t.parts.iter().any(|p| p.holds("CONNECT") == Some(false));
            path || method
        })
    }
}

/// Whether a test of the peer's identity holds of `id`; `None` if that is not known.
pub(super) fn holds_of(test: &Test, id: &SpiffeId) -> Option<bool> {
    let value = if test.attribute == Attribute::Principal {
        Some(id.principal())
    } else if test.attribute == Attribute::TrustDomain {
        Some(id.trust_domain())
    } else if test.attribute == Attribute::Namespace {
        id.k8s().map(|(namespace, _)| namespace)
    } else if test.attribute == Attribute::ServiceAccount {
        id.k8s().map(|_| id.path())
    } else {
        return None;
    };
    let mut all = Some(true);
    for part in &test.parts {
        match value.map_or(Some(part.not), |v| part.holds(v)) {
            Some(true) => {}
            Some(false) => return Some(false),
            None => all = None,
        }
    }
    all
}

fn in_namespace(test: &Test, account: &str) -> Option<bool> {
    let namespace = account.strip_prefix("/ns/")?.split('/').next()?;
    test.parts.first()?.holds(namespace)
}

/// The only namespace that an identity with such a principal can be of.
fn namespace_of(form: &Form) -> Option<&str> {
    let (text, suffix) = match form {
        Form::Exact(text) | Form::Prefix(text) => (text, false),
        Form::Suffix(text) => (text, true),
        Form::Any
        | Form::Template(_)
        | Form::Regex(_)
        | Form::Block(_)
        | Form::Port(_)
        | Form::Token(_)
        | Form::Opaque(_)
        | Form::Never(_) => return None,
    };
    let mut parts = text.split('/');
    if suffix {
        // `*/ns/x/sa/y`: four whole segments from the end.
        let mut parts = parts.rev();
        let (_account, sa, namespace, ns) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        return (ns == "ns" && sa == "sa" && parts.next().is_some()).then_some(namespace);
    }
    let (_domain, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    (ns == "ns" && parts.next().is_some()).then_some(namespace)
}
