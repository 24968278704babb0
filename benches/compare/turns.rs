//! In which order systems are measured.

/// The places of so many systems in the order of one of many rows of turns. In as many rows as there are systems (twice as
/// many, where their number is odd) each system comes right after each other one equally often, so that what one leaves
/// behind, such as memory that the kernel has just got back, is found by all alike.
///
/// E. J. Williams, *Experimental designs balanced for the estimation of residual effects of treatments*, Australian Journal of
/// Scientific Research A2 (1949).
pub fn order(systems: usize, row: usize) -> Vec<usize> {
    // From both ends in turn: 0, n-1, 1, n-2 and so on; each row is the one before it, moved on by one.
    let place = |turn: usize| if turn.is_multiple_of(2) { turn / 2 } else { systems - turn.div_ceil(2) };
    let mut order: Vec<_> = (0..systems).map(|turn| (place(turn) + row) % systems).collect();
    let is_second_half = systems % 2 == 1 && row % (2 * systems) >= systems;
    if is_second_half {
        order.reverse();
    }
    order
}
