//! When is the next request likely? The pauses that clients make between an answer and their next request tell.
//!
//! A request that crosses the close of its connection on the wire is lost, however short the time between the last look and
//! the close. So a connection is closed at a moment when clients rarely ask: one that asks every 100 ms does not do so 20 ms
//! after an answer. What cannot be told apart by the pauses (requests at random times) is closed later, rather than never.

use std::time::Duration;

/// Pauses are counted in bins of this width; the kernel's and the clients' own jitter is below it.
const BIN: Duration = Duration::from_millis(5);
/// Longer pauses are counted together.
const BINS: usize = 400;
/// Bins before and after the present one in which a request counts as near.
const BEFORE: usize = 1;
const AFTER: usize = 2;
/// Requests a second on one idle connection that are accepted at first: with 50 µs between look and close, one close in
/// 40,000 meets one.
const ACCEPTED_AT_FIRST: f64 = 0.5;
/// What is accepted doubles in this time.
const DOUBLES_IN: Duration = Duration::from_millis(250);

/// For so long nothing may have come from a client when one of its other connections is closed, at first: a burst of requests
/// opens what has rested for long.
const CALM: Duration = Duration::from_millis(2);
/// A connection that was taken over is closed when it was paused so much longer than any before, and its client has not used
/// another one that was for as long.
const LONGER: Duration = Duration::from_secs(1);
/// But a client that uses none is waited for no longer than this.
const LONGEST: Duration = Duration::from_secs(3);

/// The pauses on all connections of one container.
#[derive(Clone, Debug)]
pub struct Rhythm {
    /// Pauses that a request ended, by length.
    ended: Vec<u32>,
    /// Connections that pause now, by how long they have.
    lasting: Vec<u32>,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { ended: vec![0; BINS], lasting: vec![0; BINS] }
    }
}

impl Rhythm {
    /// A request came so long after the answer before it.
    pub fn ended(&mut self, pause: Duration) {
        self.ended[bin(pause)] += 1;
    }

    /// So long the connections pause now; replaces what was said before.
    pub fn lasting(&mut self, pauses: impl Iterator<Item = Duration>) {
        self.lasting.fill(0);
        pauses.for_each(|pause| self.lasting[bin(pause)] += 1);
    }

    /// Whether this is a moment to close a connection that has paused for `quiet`, `closing_for` after closing began.
    ///
    /// Without any pause known, every moment is as good as another.
    pub fn allows(&self, quiet: Duration, closing_for: Duration) -> bool {
        let doublings = closing_for.as_secs_f64() / DOUBLES_IN.as_secs_f64();
        self.requests_a_second(quiet) <= ACCEPTED_AT_FIRST * doublings.exp2()
    }

    /// For how long nothing may have come from a client when a connection of it is closed, `closing_for` after closing
    /// began. From busy clients such a pause never comes, so less is asked for as time goes.
    pub fn calm(&self, closing_for: Duration) -> Duration {
        CALM.div_f64((closing_for.as_secs_f64() / DOUBLES_IN.as_secs_f64()).exp2())
    }

    /// How long a connection that was taken over is kept for its next request.
    pub fn unused_after(&self) -> Duration {
        let longest = self.ended.iter().rposition(|pauses| *pauses > 0);
        let pause = longest.and_then(|bins| u32::try_from(bins + 1).ok()).map(|bins| BIN * bins);
        pause.map_or(LONGEST, |pause| (pause + LONGER).min(LONGEST))
    }

    /// How many requests a second come on a connection that has paused for `quiet`, around this moment.
    fn requests_a_second(&self, quiet: Duration) -> f64 {
        let from = bin(quiet).saturating_sub(BEFORE);
        let to = (bin(quiet) + AFTER + 1).min(BINS);
        let near: u32 = self.ended[from..to].iter().sum();
        // Whoever paused for longer than a bin was there for all of it.
        let mut there: u32 = self.ended[to..].iter().chain(&self.lasting[to..]).sum();
        let mut seconds = 0.0;
        for at in (from..to).rev() {
            there += self.ended[at] + self.lasting[at];
            seconds += f64::from(there) * BIN.as_secs_f64();
        }
        if near == 0 { 0.0 } else { f64::from(near) / seconds }
    }
}

/// How much longer a connection that was taken over is kept for its next request; none if no longer.
///
/// `unused`: for how long it has not been used; `after`: how long it is kept at least ([`Rhythm::unused_after`]). `other_used`: how
/// long ago the same client used another one that was taken over. One that still uses them is likely to use this one, too, at
/// any moment, and whoever opens new connections meanwhile comes back to the old ones later than before.
pub fn kept_on(unused: Duration, after: Duration, other_used: Option<Duration>) -> Option<Duration> {
    let by_itself = after.checked_sub(unused);
    let by_others = other_used.and_then(|ago| LONGER.checked_sub(ago));
    by_itself.max(by_others).filter(|left| !left.is_zero())
}

fn bin(pause: Duration) -> usize {
    usize::try_from(pause.as_micros() / BIN.as_micros()).unwrap_or(BINS).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn regular() -> Rhythm {
        let mut rhythm = Rhythm::default();
        (0..20).for_each(|number| rhythm.ended(ms(95 + number % 5)));
        rhythm
    }

    #[test]
    fn a_client_that_asks_every_100_ms_is_closed_in_between() {
        let rhythm = regular();
        assert!(rhythm.allows(ms(10), ms(0)));
        assert!(rhythm.allows(ms(70), ms(0)));
        assert!(!rhythm.allows(ms(96), ms(0)));
        assert!(!rhythm.allows(ms(88), ms(0)), "the next request is near");
        assert!(rhythm.allows(ms(200), ms(0)), "a pause longer than all before is the end of its use");
    }

    #[test]
    fn of_requests_at_random_times_the_closing_waits_but_not_for_ever() {
        let mut rhythm = Rhythm::default();
        // 20 requests a second: pauses fall off exponentially.
        (1..400).for_each(|number| rhythm.ended(Duration::from_secs_f64(-(f64::from(number) / 400.0).ln() / 20.0)));
        let rate = rhythm.requests_a_second(ms(30));
        assert!((15.0..25.0).contains(&rate), "{rate}");
        assert!(!rhythm.allows(ms(30), ms(500)));
        assert!(rhythm.allows(ms(30), ms(1500)));
    }

    #[test]
    fn connections_that_nobody_uses_any_more_are_closed_at_once() {
        let mut rhythm = regular();
        assert!(!rhythm.allows(ms(95), ms(0)));
        rhythm.lasting((0..2000).map(|_| ms(5000)));
        assert!(rhythm.allows(ms(95), ms(0)), "one request in a hundred pauses of this length");
    }

    #[test]
    fn a_connection_taken_over_is_kept_for_longer_than_any_pause_but_not_for_ever() {
        assert_eq!(regular().unused_after(), ms(1100));
        assert_eq!(Rhythm::default().unused_after(), ms(3000));
        let mut slow = regular();
        slow.ended(ms(60_000));
        assert_eq!(slow.unused_after(), ms(3000));
    }

    #[test]
    fn a_client_that_uses_others_of_its_connections_keeps_those_that_it_has_not_used_yet() {
        assert_eq!(kept_on(ms(100), ms(1800), None), Some(ms(1700)));
        assert_eq!(kept_on(ms(1800), ms(1800), None), None);
        assert_eq!(kept_on(ms(1800), ms(1800), Some(ms(250))), Some(ms(750)));
        assert_eq!(kept_on(ms(5000), ms(3000), Some(ms(1000))), None);
    }

    #[test]
    fn less_and_less_calm_is_asked_for() {
        let rhythm = Rhythm::default();
        assert_eq!(rhythm.calm(ms(0)), ms(2));
        assert_eq!(rhythm.calm(ms(500)), ms(2) / 4);
        assert!(rhythm.calm(ms(10_000)) < Duration::from_micros(1));
    }

    #[test]
    fn without_anything_known_every_moment_is_as_good_as_another() {
        assert!(Rhythm::default().allows(ms(10), ms(0)));
    }
}
