//! Answers of one workload, kept for when it asks again.
//!
//! An answer follows from the policy, the caller and the bytes of the query alone, as [`answer`] is pure; and of these bytes
//! the two of the id only come back as they went. So what is kept cannot be wrong while the policy is the same.

use crate::{Answer, Reply, Via, answer};
use ripstop_config::{Reason, WorkloadId};
use ripstop_policy::{Policy, WorkloadIx};
use rustc_hash::FxHashMap;
use std::sync::{Arc, Weak};

/// Answers that are kept: a workload asks for the names of few services, by a few forms of query. With queries of the
/// longest kind and replies of 1 232 bytes they take 400 KB, and usually a tenth of that.
const KEPT_MAX: usize = 256;
/// Longest query whose answer is kept, bytes: a header, the longest name with type and class, and an OPT record without options.
const QUERY_MAX: usize = 12 + 255 + 4 + 11;
/// Bytes of the id at the head of a message (RFC 1035 section 4.1.1).
const ID: usize = 2;

/// Answers one workload, and remembers.
pub struct Answers {
    workload: WorkloadId,
    /// Of which everything below is. Weak, so that an idle workload keeps no old policy alive; and it keeps the place, so that
    /// no other policy can come to lie there.
    policy: Weak<Policy>,
    caller: Option<WorkloadIx>,
    /// By the query without its id.
    kept: FxHashMap<Box<[u8]>, Reply>,
}

impl Answers {
    /// None yet, for a workload.
    #[must_use]
    pub fn new(workload: WorkloadId) -> Self {
        Self { workload, policy: Weak::new(), caller: None, kept: FxHashMap::default() }
    }

    /// What [`answer`] says, with [`Answer::Drop`] when the policy does not know the workload. Of datagrams, as a connection
    /// costs more than its answers.
    pub fn answer(&mut self, policy: &Arc<Policy>, query: &[u8], via: Via) -> Answer {
        self.follow(policy);
        let Some(caller) = self.caller else {
            return Answer::Drop(Reason::UnknownCaller);
        };
        let short = via == Via::Udp && query.len() <= QUERY_MAX;
        let Some((id, asked)) = query.split_first_chunk::<ID>().filter(|_| short) else {
            return answer(policy, caller, query, via);
        };
        if let Some(reply) = self.kept.get(asked) {
            let mut reply = reply.clone();
            reply.bytes[..ID].copy_from_slice(id);
            return Answer::Reply(reply);
        }
        let answer = answer(policy, caller, query, via);
        if let Answer::Reply(reply) = &answer {
            self.keep(asked, reply);
        }
        answer
    }

    fn follow(&mut self, policy: &Arc<Policy>) {
        if !std::ptr::eq(self.policy.as_ptr(), Arc::as_ptr(policy)) {
            self.policy = Arc::downgrade(policy);
            self.caller = policy.workload(&self.workload);
            self.kept.clear();
        }
    }

    /// Whoever asks for more than fits begins anew: to find out which to forget would cost those who do not.
    fn keep(&mut self, asked: &[u8], reply: &Reply) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.clear();
        }
        self.kept.insert(asked.into(), reply.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{id, policy, query};
    use hickory_proto::rr::RecordType;

    fn asked(name: &str, kind: RecordType, id: u16) -> Vec<u8> {
        let mut message = query(name, kind);
        message.metadata.id = id;
        message.to_vec().unwrap()
    }

    #[test]
    fn what_is_kept_is_what_would_be_answered() {
        let policy = Arc::new(policy());
        let caller = policy.workload(&id("shop/web")).unwrap();
        let mut answers = Answers::new(id("shop/web"));
        let names = ["api.shop.shop.example", "API.shop.shop.example", "db.shop.shop.example", "example.org"];
        for round in 0..3_u16 {
            for (number, name) in names.into_iter().enumerate() {
                for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
                    let query = asked(name, kind, round * 1_000 + number as u16);
                    for via in [Via::Udp, Via::Tcp] {
                        assert_eq!(
                            answers.answer(&policy, &query, via),
                            answer(&policy, caller, &query, via),
                            "{name}"
                        );
                    }
                    let bad = [&query[..5], &query[..query.len() - 1], &query[..1], &[]];
                    bad.iter().for_each(|query| {
                        assert_eq!(answers.answer(&policy, query, Via::Udp), answer(&policy, caller, query, Via::Udp));
                    });
                }
            }
        }
        assert!(!answers.kept.is_empty() && answers.kept.keys().all(|key| key.len() < QUERY_MAX));
    }

    #[test]
    fn another_policy_is_followed_at_once() {
        let query = asked("db.shop.shop.example", RecordType::A, 7);
        let mut answers = Answers::new(id("shop/web"));
        let (before, mut graph) = (policy(), policy().graph().clone());
        graph.edges.iter_mut().filter(|edge| edge.from == id("shop/api")).for_each(|edge| edge.from = id("shop/web"));
        let after = ripstop_policy::compile(graph).unwrap();
        for policy in [before, after].map(Arc::new) {
            let caller = policy.workload(&id("shop/web")).unwrap();
            for _ in 0..2 {
                assert_eq!(answers.answer(&policy, &query, Via::Udp), answer(&policy, caller, &query, Via::Udp));
            }
            assert_eq!(answers.kept.len(), 1);
        }
        let mut unknown = Answers::new(id("shop/nobody"));
        assert_eq!(unknown.answer(&Arc::new(policy()), &query, Via::Udp), Answer::Drop(Reason::UnknownCaller));
    }

    #[test]
    fn no_more_are_kept_than_fit() {
        let policy = Arc::new(policy());
        let mut answers = Answers::new(id("shop/web"));
        for number in 0..3 * KEPT_MAX {
            let query = asked(&format!("n{number}.shop.shop.example"), RecordType::A, 1);
            assert!(matches!(answers.answer(&policy, &query, Via::Udp), Answer::Reply(_)));
            assert!((1..=KEPT_MAX).contains(&answers.kept.len()));
        }
    }
}
