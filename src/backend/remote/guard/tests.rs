//! What the guard lets through, and what it refuses.

use super::*;

fn allowed(list: &str, url: &str, ip: &str) -> bool {
    let address = Address::parse(url).expect("a URL");
    let allowed = Allowed::parse(list).expect("patterns");
    allowed.may_resolve(&address).and_then(|()| allowed.check(&address, ip.parse().expect("an address"), false)).is_ok()
}

#[test]
fn patterns_allow_what_they_say() {
    for (list, url, ip, expected) in [
        ("models.example", "http://models.example:8080", "10.0.0.1", true),
        ("models.example", "http://MODELS.example.:8080", "10.0.0.1", true),
        ("models.example", "http://x.models.example", "10.0.0.1", false),
        ("models.example:8080", "http://models.example:8080", "10.0.0.1", true),
        ("models.example:8080", "http://models.example", "10.0.0.1", false),
        ("*.example", "http://a.b.example", "1.2.3.4", true),
        ("*.example", "http://example", "1.2.3.4", false),
        ("*.example", "http://evilexample", "1.2.3.4", false),
        ("10.0.0.0/8", "http://any.name", "10.9.8.7", true),
        ("10.0.0.0/8", "http://any.name", "11.9.8.7", false),
        ("10.0.0.0/8:80", "http://any.name:81", "10.9.8.7", false),
        ("10.0.0.0/8", "http://[::ffff:10.1.1.1]", "::ffff:10.1.1.1", true),
        ("[fd00::/8]:80", "http://[fd12::1]", "fd12::1", true),
        ("fd00::/8", "http://[fe12::1]", "fe12::1", false),
        ("::/0", "http://10.0.0.1", "10.0.0.1", false),
        // A name does not open loopback; an address or localhost does.
        ("models.example", "http://models.example", "127.0.0.1", false),
        ("models.example", "http://models.example", "::ffff:127.0.0.1", false),
        ("localhost", "http://localhost", "127.0.0.1", true),
        ("127.0.0.0/8", "http://models.example", "127.0.0.1", true),
        ("::1", "http://[::1]:80", "::1", true),
    ] {
        assert_eq!(allowed(list, url, ip), expected, "{list} {url} {ip}");
    }
}

#[test]
fn some_addresses_are_for_nobody() {
    for ip in [
        "169.254.169.254",
        "169.254.0.1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fe80::1",
        "fec0::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "::ffff:0.0.0.0",
        "::ffff:0:169.254.169.254",
        "2001:0:1::5601:5601",
    ] {
        assert!(!allowed("0.0.0.0/0,::/0,anything.example", "http://anything.example", ip), "{ip}");
    }
}

#[test]
fn entries_that_are_no_pattern_are_refused() {
    for entry in [
        "http://x",
        "a b",
        "10.0.0.0/33",
        "x:port",
        "[::1",
        "*.",
        "*",
        "x/8",
        ".x",
        "x/a b",
        "x/a//b",
        "x/../a",
        "x/%2e",
        "x/a?b",
        "x/a#b",
        "/a",
        "[::1/a",
        "10.0.0.0/8/a/..",
    ] {
        assert!(Allowed::parse(entry).is_err(), "{entry}");
    }
}

/// What a class may ask for at the operator's own upstream, `http://own.example:8080/base`, reached as 10.0.0.5.
#[test]
fn a_class_adds_nothing_to_the_operators_upstream_but_a_model() {
    for (list, url, expected) in [
        ("", "http://own.example:8080/base", true),
        ("", "http://OWN.example.:8080/base/", true),
        ("", "http://own.example:8080/base/models/bge", true),
        ("", "http://own.example:8080/base/models/BAAI/bge-small-en-v1.5/", true),
        ("", "http://own.example:8080/base/models/nomic:v1.5", true),
        ("", "http://own.example:8080", true),
        ("", "http://own.example:8080/models/bge", true),
        ("", "tei+http://own.example:8080/base", true),
        ("", "http://own.example:8080/admin/delete", false),
        ("", "http://own.example:8080/base/admin", false),
        ("", "http://own.example:8080/basement", false),
        ("", "http://own.example:8080/base/models", false),
        ("", "http://own.example:8080/base/models/a/b/c", false),
        ("", "http://own.example:8080/base/models/..%2f..%2fadmin", false),
        ("", "http://own.example:8080/base/models/a%3fall=1", false),
        ("", "http://own.example:8080/base/models/../../admin", false),
        ("", "http://own.example:8080/base/models/%2e%2e/%2e%2e/admin", false),
        ("", "http://own.example:8080\\admin\\delete", false),
        ("", "http://own.example:8080/ad\tmin", false),
        ("", "http://own.example:8080/admin/delete?all=1&x=", false),
        ("", "http://own.example:8080/base?x=", false),
        ("", "http://own.example:8080/base?", false),
        ("", "http://own.example:8080/base#", false),
        ("", "tei+http://own.example:8080/base/../admin#x", false),
        ("", "https://own.example:8080/base", false),
        ("", "http://own.example:8081/base", false),
        // A host's entry does not list a path.
        ("own.example", "http://own.example:8080/admin", false),
        ("10.0.0.0/8", "http://own.example:8080/admin", false),
        ("*.example:8080", "http://own.example:8080/base/admin", false),
        ("own.example/team", "http://own.example:8080/team", true),
        ("own.example:8080/team", "http://own.example:8080/team/bge/models/x", true),
        ("own.example:8080/team", "http://own.example:8080/teams", false),
        ("own.example:8080/team", "http://own.example:8080/team/..%2fadmin", false),
        ("own.example:8080/team", "http://own.example:8080/team/../admin", false),
        ("own.example:8080/team", "http://own.example:8080/team?x=", false),
        ("own.example:9090/team", "http://own.example:8080/team", false),
        ("10.0.0.0/8/team", "http://own.example:8080/team", true),
        ("own.example/", "http://own.example:8080/anything/at/all", true),
        ("own.example/", "http://own.example:8080/anything?x=", false),
        // By its address.
        ("10.0.0.0/8", "http://10.0.0.5:8080/admin", true),
    ] {
        let mut allowed = Allowed::parse(list).expect("patterns");
        allowed.allow(&Address::parse("http://own.example:8080/base").expect("a URL"));
        let address = Address::parse(url).expect("a URL");
        let ip = "10.0.0.5".parse().expect("an address");
        let answer = allowed.may_resolve(&address).and_then(|()| allowed.check(&address, ip, false));
        assert_eq!(answer.is_ok(), expected, "{list} {url}: {answer:?}");
        if let Err(error) = answer {
            assert!(error.message().contains("--allow-upstream") && !error.message().contains("x="), "{error}");
        }
    }
}

/// An upstream that is named by its address is the operator's own in every spelling, and under every name.
#[test]
fn an_upstream_by_address_is_guarded_in_every_spelling() {
    let mut allowed = Allowed::parse("*.example").expect("patterns");
    for own in ["http://10.0.0.5:8080", "http://[fd00::5]:8080"] {
        allowed.allow(&Address::parse(own).expect("a URL"));
    }
    for (host, ip) in [
        ("10.0.0.5", "10.0.0.5"),
        ("167772165", "10.0.0.5"),
        ("012.0.0.5", "10.0.0.5"),
        ("[::ffff:10.0.0.5]", "::ffff:10.0.0.5"),
        ("[64:ff9b::10.0.0.5]", "64:ff9b::a00:5"),
        ("[fd00:0:0:0:0:0:0:5]", "fd00::5"),
        ("any.example", "10.0.0.5"),
        ("unknown.name", "::ffff:10.0.0.5"),
    ] {
        let check = |path: &str| {
            let address = Address::parse(&format!("http://{host}:8080{path}")).expect("a URL");
            allowed.check(&address, ip.parse().expect("an address"), false)
        };
        assert!(check("").is_ok() && check("/models/a").is_ok(), "{host}");
        let error = check("/admin").expect_err(host);
        assert!(error.message().contains("/models/<name>"), "{error}");
    }
}

#[test]
fn where_credentials_go_along_paths_have_to_be_listed() {
    let check = |list: &str, url: &str, with_credentials| {
        let address = Address::parse(url).expect("a URL");
        let allowed = Allowed::parse(list).expect("patterns");
        allowed.check(&address, "10.0.0.5".parse().expect("an address"), with_credentials).is_ok()
    };
    for (url, expected) in [
        ("http://a.example", true),
        ("http://a.example/models/bge", true),
        ("openai+https://a.example/v1?model=m", true),
        ("openai+https://a.example/v1/files", false),
        ("http://a.example/v1", false),
        ("http://a.example/team/bge", false),
    ] {
        assert_eq!(check("a.example", url, true), expected, "{url}");
        assert!(check("a.example", url, false), "{url}");
        assert!(check("a.example/", url, true), "{url}");
    }
    assert!(check("a.example/team,10.0.0.0/8", "http://a.example/team/bge", true));
}
