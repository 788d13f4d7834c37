//! What is read, what is refused, and what is bounded.

use super::*;

fn names(value: &Value) -> String {
    match &value.kind {
        Kind::List(items) => {
            let items: Vec<String> = items.iter().map(names).collect();
            format!("[{}]", items.join(" "))
        }
        Kind::Table(entries) => {
            let entries = entries
                .iter()
                .map(|e| format!("{}={}", e.key, names(&e.value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
        }
        Kind::Text(text) => format!("'{text}'"),
        Kind::Integer(Some(n)) => n.to_string(),
        Kind::Integer(None) => "big".to_owned(),
        Kind::Boolean(b) => b.to_string(),
        Kind::Missing | Kind::Null | Kind::Float | Kind::Datetime => value.kind.name().to_owned(),
    }
}

fn read(text: &str) -> String {
    match parse(text) {
        Ok(documents) => documents.iter().map(names).collect::<Vec<_>>().join(" "),
        Err((offset, reason)) => format!("{offset}: {reason}"),
    }
}

#[test]
fn the_core_schema() {
    for (text, want) in [
        ("no", "'no'"),
        ("on", "'on'"),
        ("yes", "'yes'"),
        ("n", "'n'"),
        ("true", "true"),
        ("TRUE", "true"),
        ("False", "false"),
        ("tRUE", "'tRUE'"),
        ("\"true\"", "'true'"),
        ("'1'", "'1'"),
        ("8080", "8080"),
        ("-1", "-1"),
        ("+7", "7"),
        ("0o17", "15"),
        ("0x1f", "31"),
        ("0x", "'0x'"),
        ("0o8", "'0o8'"),
        ("0777", "777"),
        ("1_000", "'1_000'"),
        ("1:20", "'1:20'"),
        ("99999999999999999999", "big"),
        ("1.5", "a float"),
        ("1e3", "a float"),
        ("-.inf", "a float"),
        (".nan", "a float"),
        (".", "'.'"),
        ("1.2.3", "'1.2.3'"),
        ("2025-01-31T12:00:00Z", "'2025-01-31T12:00:00Z'"),
        (
            "[~, null, NULL, nULL, '']",
            "[nothing nothing nothing 'nULL' '']",
        ),
        ("a: |\n  x\n  y\n", "{a='x\ny\n'}"),
        ("a: >-\n  x\n  y\n", "{a='x y'}"),
        ("8080: x\ntrue: y\n", "{8080='x' true='y'}"),
        ("a:\n- b\n- c: d\n", "{a=['b' {c='d'}]}"),
        ("", ""),
        ("# only a comment\n", ""),
        ("---\n---\na: 1\n...\n---\nb: 2\n", "{a=1} {b=2}"),
        ("\u{feff}a: 1", "{a=1}"),
        ("a: 1\r\nb: 2\r\n", "{a=1 b=2}"),
        ("<<: {a: 1}", "{<<={a=1}}"),
    ] {
        assert_eq!(read(text), want, "{text:?}");
    }
}

#[test]
fn what_is_refused() {
    for (text, want) in [
        ("a: 1\nb: 2\na: 3", "10: a second key `a`"),
        ("{a: 1, \"a\": 2}", "7: a second key `a`"),
        ("a: !!str 1", "tags are not read"),
        ("a: !x [1]", "tags are not read"),
        ("[a, b]: 1", "a key is one word"),
        ("? {a: 1}\n: 2", "a key is one word"),
        ("&k a: 1", "a key cannot be an anchor"),
        ("a: &a [*a]", "an alias to what is not complete"),
        ("a: *b", "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("a: \"x", "not valid YAML"),
        ("a:\n\t- 1", "not valid YAML"),
    ] {
        assert!(read(text).contains(want), "{text:?}: {}", read(text));
    }
}

#[test]
fn aliases() {
    assert_eq!(
        read("a: &x [1, 2]\nb: *x\nc: [*x]"),
        "{a=[1 2] b=[1 2] c=[[1 2]]}"
    );
    let across = read("a: &x 1\n---\nb: *x");
    assert!(
        across.contains("not complete before it in this document"),
        "{across}"
    );
    let values = parse("a: &x [1, 2]\nb: *x").unwrap();
    let b = &values[0].entry("b").unwrap().value;
    assert_eq!(
        b.offset, 16,
        "a problem of a repeated value is where it is repeated"
    );
}

#[test]
fn what_grows_is_bounded() {
    let mut text = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
    for i in 1..9 {
        let below = format!("*a{}, ", i - 1).repeat(10);
        text.push_str(&format!("a{i}: &a{i} [{below}]\n"));
    }
    assert!(
        read(&text).contains("stand for more than 100000 values"),
        "{}",
        read(&text)
    );

    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert_eq!(
        read(&nested(limits::DOCUMENT_DEPTH)),
        nested(limits::DOCUMENT_DEPTH)
    );
    let deeper = read(&nested(limits::DOCUMENT_DEPTH + 1));
    assert!(deeper.contains("nested deeper than 64"), "{deeper}");
    // Far beyond, the parser itself may be the one that stops.
    assert!(parse(&nested(100_000)).is_err());
    let block: String = (0..1000)
        .map(|i| format!("{}a:\n", " ".repeat(i)))
        .collect();
    assert!(read(&block).contains("nested deeper than 64"));
    let deep = format!("a: &a {}\nb: [[{}]]", nested(62), "*a");
    assert!(
        read(&deep).contains("nested deeper than 64"),
        "{}",
        read(&deep)
    );
}

#[test]
fn offsets_are_bytes() {
    let text = format!("# {}\nä: \"é\"\nb: 1\n", "ü".repeat(1000));
    let values = parse(&text).unwrap();
    for (key, written) in [("ä", "ä: "), ("b", "b: 1")] {
        let entry = values[0].entry(key).unwrap();
        assert_eq!(Some(entry.offset), text.find(written), "{key}");
    }
    let second = &values[0].entry("b").unwrap().value;
    assert_eq!(Some(second.offset), text.find("1\n"));
}

#[test]
fn json_is_json() {
    let value = parse_json("{\"a\": [1, \"no\\/\\u00e4\", null, true],\n\t\"b\": {}}").unwrap();
    assert_eq!(names(&value[0]), "{a=[1 'no/ä' nothing true] b={}}");
    for (text, want) in [
        ("{a: 1}", "1: not valid JSON"),
        ("{\"a\": 1,}", "not valid JSON"),
        ("{\"a\": 1} # x", "not valid JSON"),
        ("{\"a\": 1, \"a\": 2}", "a second key `a`"),
        ("", "not valid JSON"),
        ("{\"a\": \"\\ud83d\\ude00\"}", "not read"),
    ] {
        let (offset, reason) = parse_json(text).unwrap_err();
        assert!(
            format!("{offset}: {reason}").contains(want),
            "{text}: {offset}: {reason}"
        );
    }
}
