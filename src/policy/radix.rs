//! A radix tree over bytes: finds every key that a value begins with, in one walk along the value.

/// Keys with a number each. Suffixes are kept reversed and walked from the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Radix {
    nodes: Box<[Node]>,
    /// Labels of all nodes, one after another.
    labels: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// First byte of the label, so that a sibling is passed over without a look at the labels.
    first: u8,
    /// Where the rest of the label stands.
    label: u32,
    label_len: u32,
    /// The children stand side by side, in order of their first bytes.
    child: u32,
    children: u32,
    /// Number of the key that ends here.
    value: u32,
}

const NONE: u32 = u32::MAX;

/// Keys that are still to be put below a node: the range of them, and how many bytes are spent.
struct Work {
    node: usize,
    from: usize,
    to: usize,
    depth: usize,
}

impl Radix {
    /// Of keys and their numbers; of equal keys one counts.
    pub(crate) fn new(mut keys: Vec<(Vec<u8>, u32)>) -> Self {
        if keys.is_empty() {
            return Self::default();
        }
        keys.sort_unstable();
        keys.dedup_by(|a, b| a.0 == b.0);
        let mut nodes = vec![Node::new(0)];
        let mut labels = Vec::new();
        let mut todo = vec![Work {
            node: 0,
            from: 0,
            to: keys.len(),
            depth: 0,
        }];
        while let Some(work) = todo.pop() {
            let Some(here) = keys.get(work.from..work.to) else {
                continue;
            };
            let mut from = work.from;
            let mut value = NONE;
            if let Some((key, number)) = here.first()
                && key.len() == work.depth
            {
                value = *number;
                from += 1;
            }
            let child = nodes.len();
            while from < work.to {
                let byte = byte_at(&keys, from, work.depth);
                let same = |k: &(Vec<u8>, u32)| k.0.get(work.depth).copied() == byte;
                let rest = keys.get(from..work.to).unwrap_or_default();
                let to = from + rest.partition_point(same);
                let shared = shared(rest.get(..to - from).unwrap_or_default(), work.depth);
                let mut node = Node::new(byte.unwrap_or_default());
                node.label = narrow(labels.len());
                let label = rest
                    .first()
                    .and_then(|(k, _)| k.get(work.depth + 1..work.depth + shared))
                    .unwrap_or_default();
                node.label_len = narrow(label.len());
                labels.extend_from_slice(label);
                todo.push(Work {
                    node: nodes.len(),
                    from,
                    to,
                    depth: work.depth + shared,
                });
                nodes.push(node);
                from = to;
            }
            let children = nodes.len() - child;
            if let Some(node) = nodes.get_mut(work.node) {
                node.value = value;
                node.child = narrow(child);
                node.children = narrow(children);
            }
        }
        Self {
            nodes: nodes.into(),
            labels: labels.into(),
        }
    }

    /// Whether `each` says yes to the number of any key that the value begins with, shortest first.
    pub(crate) fn any(
        &self,
        mut value: impl Iterator<Item = u8>,
        mut each: impl FnMut(u32) -> bool,
    ) -> bool {
        let mut at = self.nodes.first();
        while let Some(node) = at {
            if node.value != NONE && each(node.value) {
                return true;
            }
            let Some(byte) = value.next() else {
                return false;
            };
            let children = wide(node.child)..wide(node.child) + wide(node.children);
            let children = self.nodes.get(children).unwrap_or_default();
            at = children
                .binary_search_by_key(&byte, |n| n.first)
                .ok()
                .and_then(|i| children.get(i))
                .filter(|n| {
                    let label = wide(n.label)..wide(n.label) + wide(n.label_len);
                    let label = self.labels.get(label).unwrap_or_default();
                    label.iter().all(|b| value.next() == Some(*b))
                });
        }
        false
    }

    /// Whether there is no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl Node {
    fn new(first: u8) -> Self {
        Self {
            first,
            label: 0,
            label_len: 0,
            child: 0,
            children: 0,
            value: NONE,
        }
    }
}

fn byte_at(keys: &[(Vec<u8>, u32)], at: usize, depth: usize) -> Option<u8> {
    keys.get(at).and_then(|(k, _)| k.get(depth)).copied()
}

/// How many bytes from `depth` on all these sorted keys share: the first and the last differ first.
fn shared(keys: &[(Vec<u8>, u32)], depth: usize) -> usize {
    let (first, last) = (rest_of(keys.first(), depth), rest_of(keys.last(), depth));
    first.iter().zip(last).take_while(|(a, b)| a == b).count()
}

fn rest_of(key: Option<&(Vec<u8>, u32)>, depth: usize) -> &[u8] {
    key.and_then(|(k, _)| k.get(depth..)).unwrap_or_default()
}

/// Policies hold less than 4 GiB of text; what does not fit would be a label that matches nothing.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(NONE)
}

fn wide(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tree: &Radix, value: &str) -> Vec<u32> {
        let mut out = Vec::new();
        tree.any(value.bytes(), |n| {
            out.push(n);
            false
        });
        out
    }

    #[test]
    fn prefixes() {
        let keys = ["/api", "/api/v1/", "/api/v2/", "/ab", "", "/api/v1/users/"];
        let keys = keys
            .iter()
            .zip(0..)
            .map(|(k, n)| (k.as_bytes().to_vec(), n));
        let tree = Radix::new(keys.collect());
        assert_eq!(found(&tree, "/api/v1/users/7"), [4, 0, 1, 5]);
        assert_eq!(found(&tree, "/api/v2"), [4, 0]);
        assert_eq!(found(&tree, "/a"), [4]);
        assert_eq!(found(&tree, ""), [4]);
        assert!(!tree.is_empty() && Radix::new(Vec::new()).is_empty());
        assert_eq!(found(&Radix::new(Vec::new()), "x"), [] as [u32; 0]);
    }
}
