//! A workload that keeps to no rule. A panic here would be the end of the agent, and with it of every other workload's sessions.

use super::*;
use proptest::prelude::*;

/// What a hostile workload may do next.
#[derive(Debug, Clone)]
enum Step {
    Segment { flags: u8, offset: u32, acknowledged: u32, window: u16, length: u16 },
    Read(usize),
    Write(usize),
    Finish,
    Abort,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let near = prop_oneof![0u32..20, 65_000..66_000u32, 262_000..263_000u32, 524_000..525_000u32, any::<u32>()];
    let acknowledged = prop_oneof![4 => 0u32..300_000, 1 => any::<u32>()];
    let flags = prop_oneof![4 => Just(ACK), 1 => Just(ACK | FIN), 1 => any::<u8>()];
    let length = prop_oneof![Just(0u16), 0..2_000u16, 60_000..65_000u16];
    prop_oneof![
        8 => (flags, near, acknowledged, any::<u16>(), length).prop_map(|(flags, offset, acknowledged, window, length)| {
            Step::Segment { flags, offset, acknowledged, window, length }
        }),
        2 => (1usize..100_000).prop_map(Step::Read),
        2 => (1usize..100_000).prop_map(Step::Write),
        1 => Just(Step::Finish),
        1 => Just(Step::Abort),
        1 => (1u64..20_000).prop_map(Step::Wait),
    ]
}

async fn play(steps: Vec<Step>, options: &[u8]) {
    let Some(talk) = Talk::try_start(options) else { return };
    let soon = Duration::from_millis(1);
    for step in steps {
        match step {
            Step::Segment { flags, offset, acknowledged, window, length } => {
                talk.send(flags, offset, acknowledged, window, &vec![1; usize::from(length)]);
            }
            Step::Read(most) => drop(tokio::time::timeout(soon, talk.endpoint.read(most, Reason::CallerReset)).await),
            Step::Write(length) => {
                let mut piece = vec![bytes::Bytes::from(vec![2; length])];
                drop(tokio::time::timeout(soon, talk.endpoint.write(&mut piece, Reason::CallerReset)).await);
            }
            Step::Finish => talk.endpoint.finish(),
            Step::Abort => talk.endpoint.abort(),
            Step::Wait(millis) => {
                drop(tokio::time::timeout(Duration::from_millis(millis), talk.endpoint.drive()).await);
            }
        }
        talk.kept.0.take();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn nothing_a_workload_sends_panics_or_spins(
        steps in prop::collection::vec(step(), 1..40),
        options in prop_oneof![
            Just(OPTIONS.to_vec()),
            Just(vec![2, 4, 0, 0, 1, 3, 3, 14]),
            Just(vec![2, 4, 0, 48, 4, 2, 1, 1]),
            prop::collection::vec(any::<u8>(), 0..10).prop_map(|mut bytes| { bytes.resize(bytes.len() / 4 * 4, 1); bytes }),
        ],
    ) {
        run(play(steps, &options));
    }
}
