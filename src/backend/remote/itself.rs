//! An upstream that is this sidecar itself: a variable that it shares with Weaviate names it, and every text would come
//! back to be forwarded again.
//!
//! It is known in two ways. By its address: a name that leads to this machine, and the port listened on. And by asking:
//! through a Service or a proxy the address is another one, but what is asked at start carries a mark of this process,
//! which its server knows again.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::base_url::Address;
use super::client::Answer;
use crate::error::Error;

/// Header with the mark of who asks.
pub const HEADER: &str = "x-t2v-origin";

/// Status of the answer to one's own question (RFC 5842).
pub const STATUS: u16 = 508;

/// How this sidecar is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Itself {
    /// Where it listens.
    listens_at: SocketAddr,
    mark: Arc<str>,
}

impl Itself {
    /// A process that listens there. Its mark is made by chance.
    pub fn new(listens_at: SocketAddr) -> Itself {
        let chance = || RandomState::new().hash_one(listens_at);
        Itself { listens_at, mark: format!("{:016x}{:016x}", chance(), chance()).into() }
    }

    /// The value of [`HEADER`].
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether an address of an upstream is where this process listens.
    pub fn is_at(&self, address: &Address, ip: IpAddr) -> bool {
        let (ip, own) = (ip.to_canonical(), self.listens_at.ip().to_canonical());
        let listens = match own {
            own if own.is_unspecified() => (own.is_ipv6() || ip.is_ipv4()) && is_of_this_machine(ip),
            own => own == ip,
        };
        address.port() == self.listens_at.port() && listens
    }

    /// Whether an answer is this process's own.
    pub fn gave(&self, answer: &Answer) -> bool {
        answer.status == STATUS && String::from_utf8_lossy(&answer.body).contains(self.mark())
    }
}

/// Only addresses of a machine can be bound there.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// What the operator is told.
pub fn refused(shown: &str) -> Error {
    Error::config(format!(
        "{shown} is this sidecar itself, to which it cannot forward: to serve a model here take the URL out of \
         TRANSFORMERS_INFERENCE_API or --upstream (T2V_UPSTREAM), name it in --self-urls (T2V_SELF_URLS), or give --model"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_at(listens_at: &str, url: &str, ip: &str) -> bool {
        let itself = Itself::new(listens_at.parse().expect("an address"));
        itself.is_at(&Address::parse(url).expect("a URL"), ip.parse().expect("an address"))
    }

    #[test]
    fn a_name_that_leads_to_the_own_port_is_known() {
        for (listens_at, url, ip, expected) in [
            ("0.0.0.0:8080", "http://t2v:8080", "127.0.0.1", true),
            ("0.0.0.0:8080", "http://t2v:8080/models/bge", "127.0.0.5", true),
            ("0.0.0.0:8080", "http://t2v:8080", "::ffff:127.0.0.1", true),
            ("0.0.0.0:80", "http://t2v", "127.0.0.1", true),
            ("[::]:8080", "grpc://t2v:8080", "127.0.0.1", true),
            ("127.0.0.1:8080", "http://t2v:8080", "127.0.0.1", true),
            ("0.0.0.0:8080", "http://t2v:8081", "127.0.0.1", false),
            ("0.0.0.0:8080", "http://t2v:8080", "192.0.2.1", false),
            ("0.0.0.0:8080", "http://t2v:8080", "::1", false),
            ("127.0.0.1:8080", "http://t2v:8080", "127.0.0.2", false),
        ] {
            assert_eq!(is_at(listens_at, url, ip), expected, "{listens_at} {url} {ip}");
        }
    }

    #[test]
    fn marks_differ_and_answers_are_known_by_them() {
        let [one, other] = [0, 1].map(|_| Itself::new("0.0.0.0:8080".parse().expect("an address")));
        assert_ne!(one.mark(), other.mark());
        let answer =
            |status| Answer { status, retry_after: None, body: format!("{{\"origin\":\"{}\"}}", one.mark()).into() };
        assert!(one.gave(&answer(STATUS)) && !other.gave(&answer(STATUS)) && !one.gave(&answer(200)));
    }
}
