//! How long each piece takes: `cargo bench -p ripstop-pieces`, or `… -- dns` for some.

#![allow(missing_docs, reason = "criterion_group! makes a public function without any")]

use criterion::{Criterion, criterion_group, criterion_main};
use ripstop_pieces::PIECES;

fn pieces(criterion: &mut Criterion) {
    for piece in PIECES {
        // Set up only where it is asked for: some take seconds and hundreds of megabytes.
        criterion.bench_function(piece.name, |bench| {
            let mut round = (piece.set_up)();
            bench.iter(&mut round);
        });
    }
}

criterion_group!(benches, pieces);
criterion_main!(benches);
