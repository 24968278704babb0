//! What the fabric is to reach beside the others, and whether it does.

use crate::{
    figures::{Condition, Figure, Results},
    system::{Class, System},
};

/// What a figure of the fabric is held against.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// The best of the VPNs.
    BestVpn,
    /// The best of all peers.
    BestPeer,
    /// One system.
    System(System),
    /// Another of its own figures.
    Own(Figure),
    /// Nothing: the figure itself is what counts.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Goal {
    condition: Condition,
    figure: Figure,
    against: Against,
    bound: Bound,
}

/// A goal, and what came of it.
pub struct Outcome {
    /// What is measured, with its condition.
    pub what: String,
    /// What it is held against, and that one's figure.
    pub against: String,
    pub ours: String,
    /// The ratio, or the figure itself.
    pub reached: String,
    /// The ratio that plain TCP or UDP reaches, with neither encryption nor identity: beyond that no fabric comes.
    pub direct: String,
    /// That of a tunnel in userspace that does nothing but carry packets; none of a figure that is held against nothing.
    pub bare: String,
    pub goal: String,
    /// `None` where a figure is missing.
    pub met: Option<bool>,
}

fn goals() -> Vec<Goal> {
    let mut all = Vec::new();
    let mut add = |condition, figure, against, bound| all.push(Goal { condition, figure, against, bound });
    let (plain, haproxy, quincy) =
        (Condition::Plain, Against::System(System::Haproxy), Against::System(System::Quincy));
    let ways = [(1, false), (1, true), (8, false), (8, true)];
    for (streams, reverse) in ways {
        add(plain, Figure::Bulk { streams, reverse }, Against::BestVpn, Bound::AtLeast(2.5));
    }
    for (condition, bound) in [(plain, 0.7), (Condition::Jumbo, 1.5)] {
        for (streams, reverse) in ways {
            add(condition, Figure::Bulk { streams, reverse }, haproxy, Bound::AtLeast(bound));
        }
    }
    for (streams, reverse) in ways {
        add(plain, Figure::BulkCpu { streams, reverse }, Against::BestVpn, Bound::AtMost(0.45));
    }
    for mille in [500, 990] {
        add(plain, Figure::Reply { mille }, haproxy, Bound::AtMost(1.0));
    }
    let new = [1, 8, 64].map(|parallel| Figure::Connections { parallel });
    for figure in new.into_iter().chain([Figure::Http { kept: false }]) {
        add(plain, figure, quincy, Bound::AtLeast(1.5));
        add(plain, figure, haproxy, Bound::AtLeast(10.0));
    }
    add(plain, Figure::Http { kept: true }, Against::BestPeer, Bound::AtLeast(1.0));
    for together in [false, true] {
        add(plain, Figure::Udp { together }, Against::BestPeer, Bound::AtLeast(3.0));
    }
    add(plain, Figure::ResidentIdle, Against::Nothing, Bound::AtMost(20.0));
    add(plain, Figure::ResidentLoaded, Against::Nothing, Bound::AtMost(60.0));
    add(plain, Figure::ResidentSession, Against::Nothing, Bound::AtMost(16.0));
    let alone = Against::Own(Figure::OpenP99 { idle: false });
    add(plain, Figure::OpenP99 { idle: true }, alone, Bound::AtMost(1.3));
    add(plain, Figure::Dns, Against::System(System::Unbound), Bound::AtLeast(1.5));
    all
}

/// Holds the figures against the goals; those of which the fabric has no figure are left out.
pub fn outcomes(results: &Results) -> Vec<Outcome> {
    goals().iter().filter_map(|goal| outcome(goal, results)).collect()
}

fn outcome(goal: &Goal, results: &Results) -> Option<Outcome> {
    let (condition, figure) = (goal.condition, goal.figure);
    let shape = figure.shape();
    let show = |value: f64| format!("{value:.*} {}", shape.decimals, shape.unit);
    let ours = results.median(condition, figure, System::Fabric)?;
    let of = |system: System| Some((system.name().to_owned(), results.median(condition, figure, system)?));
    let theirs = match goal.against {
        Against::BestVpn => results.best(condition, figure, Some(Class::Vpn)).and_then(|(system, _)| of(system)),
        Against::BestPeer => results.best(condition, figure, None).and_then(|(system, _)| of(system)),
        Against::System(system) => of(system),
        Against::Own(other) => Some((other.shape().name, results.median(condition, other, System::Fabric)?)),
        Against::Nothing => Some((String::new(), 1.0)),
    };
    let alone = matches!(goal.against, Against::Nothing);
    let beside = |value: f64| theirs.as_ref().filter(|(_, theirs)| *theirs > 0.0).map(|(_, theirs)| value / theirs);
    let reached = beside(ours);
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}x"));
    let of_bound = |system| results.median(condition, figure, system).filter(|_| !alone).and_then(beside);
    let [direct, bare] = [System::Direct, System::BareTun].map(|system| ratio(of_bound(system)));
    let (sign, bound) = match goal.bound {
        Bound::AtLeast(bound) => ("≥", bound),
        Bound::AtMost(bound) => ("≤", bound),
    };
    Some(Outcome {
        what: match condition {
            Condition::Plain => shape.name.clone(),
            Condition::Jumbo | Condition::Lossy | Condition::Slow => format!("{}, {}", shape.name, condition.name()),
        },
        against: match &theirs {
            _ if alone => "–".to_owned(),
            Some((name, value)) => format!("{name} {}", show(*value)),
            None => "not measured".to_owned(),
        },
        ours: show(ours),
        reached: if alone { show(ours) } else { ratio(reached) },
        direct,
        bare,
        goal: if alone { format!("{sign} {}", show(bound)) } else { format!("{sign} {bound}x") },
        met: reached.map(|reached| match goal.bound {
            Bound::AtLeast(bound) => reached >= bound,
            Bound::AtMost(bound) => reached <= bound,
        }),
    })
}
