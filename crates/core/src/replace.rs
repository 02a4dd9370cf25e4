//! The replacements of one service: which containers are replaced next, and what a half-replaced pair needs.

use std::collections::VecDeque;

use crate::compose::update_config::UpdateConfig;

/// The replacements of one service: what waits, what is under way, what came of it.
#[derive(Clone, Debug)]
pub struct Batches<T> {
    update: UpdateConfig,
    all: usize,
    waiting: VecDeque<T>,
    under_way: usize,
    failed: usize,
    /// Nothing new is begun before the delay is over.
    delayed: bool,
}

/// What comes next in a service.
#[derive(Debug, PartialEq)]
pub enum Next<T> {
    /// These are replaced now, side by side.
    Begin(Vec<T>),
    /// Call [`Batches::delay_is_over`] after so many seconds.
    Delay(f64),
    /// These are not replaced: too many have failed.
    GiveUp(Vec<T>),
    /// Something is under way or nothing waits.
    Nothing,
}

impl<T> Batches<T> {
    /// `all` is how many containers the service has.
    pub fn new(update: UpdateConfig, all: usize) -> Self {
        Self { update, all, waiting: VecDeque::new(), under_way: 0, failed: 0, delayed: false }
    }

    /// One more is to be replaced.
    pub fn add(&mut self, one: T) {
        self.waiting.push_back(one);
    }

    /// One that was begun has ended.
    pub fn ended(&mut self, well: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        self.failed += usize::from(!well);
        self.delayed = self.under_way == 0 && self.update.delay > 0.0;
    }

    /// One that is more than there were has failed.
    pub fn newcomer_failed(&mut self) {
        self.failed += 1;
    }

    /// Whether so many have failed that those that were replaced go back.
    pub fn goes_back(&self) -> bool {
        self.update.rolls_back() && !self.update.goes_on(self.failed, self.all)
    }

    /// The time that [`Next::Delay`] asked for has passed.
    pub fn delay_is_over(&mut self) {
        self.delayed = false;
    }

    /// What comes next; to be asked after every change.
    pub fn what_next(&mut self) -> Next<T> {
        if self.waiting.is_empty() {
            return Next::Nothing;
        }
        if !self.update.goes_on(self.failed, self.all) {
            return Next::GiveUp(self.waiting.drain(..).collect());
        }
        if self.delayed {
            return if self.under_way == 0 { Next::Delay(self.update.delay) } else { Next::Nothing };
        }
        let free = self.update.batch(self.all).saturating_sub(self.under_way);
        // A batch begins when the one before has ended; within the first all that fits comes as it is asked for.
        let count = free.min(self.waiting.len());
        if count == 0 {
            return Next::Nothing;
        }
        self.under_way += count;
        Next::Begin(self.waiting.drain(..count).collect())
    }
}

/// One container of a pair, as far as it matters to what becomes of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// It runs.
    Runs,
    /// It is there and does not run.
    Stopped,
    /// It is not there.
    Gone,
}

/// What becomes of a pair whose replacement ended half-way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// The old one serves: remove the new one.
    Back,
    /// The old one is gone or has stopped: remove what is left of it; the new one gets the final name, and is started if it
    /// does not run.
    Forward,
    /// Nothing is left to do.
    Nothing,
}

/// What becomes of an old container and the new one that was to replace it.
pub fn mend(old: Half, new: Half) -> Mend {
    match (old, new) {
        (_, Half::Gone) => Mend::Nothing,
        (Half::Runs, _) => Mend::Back,
        (Half::Stopped | Half::Gone, _) => Mend::Forward,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::update_config::FailureAction;

    fn batches(parallelism: Option<usize>, waiting: u32) -> Batches<u32> {
        let update = UpdateConfig { parallelism, ..UpdateConfig::default() };
        let mut batches = Batches::new(update, waiting as usize);
        (1..=waiting).for_each(|one| batches.add(one));
        batches
    }

    #[test]
    fn one_after_the_other_unless_said_otherwise() {
        let mut one = batches(Some(1), 3);
        assert_eq!(one.what_next(), Next::Begin(vec![1]));
        assert_eq!(one.what_next(), Next::Nothing);
        one.ended(true);
        assert_eq!(one.what_next(), Next::Begin(vec![2]));
        assert_eq!(batches(None, 3).what_next(), Next::Begin(vec![1, 2, 3]));
        assert_eq!(batches(Some(2), 3).what_next(), Next::Begin(vec![1, 2]));
    }

    #[test]
    fn between_batches_the_delay_is_kept() {
        let mut slow = Batches::new(UpdateConfig { delay: 2.0, ..UpdateConfig::default() }, 2);
        slow.add(1);
        slow.add(2);
        assert_eq!(slow.what_next(), Next::Begin(vec![1]));
        slow.ended(true);
        assert_eq!(slow.what_next(), Next::Delay(2.0));
        slow.delay_is_over();
        assert_eq!(slow.what_next(), Next::Begin(vec![2]));
    }

    #[test]
    fn after_a_failure_the_rest_is_left_as_it_was() {
        let mut three = batches(Some(1), 3);
        three.what_next();
        three.ended(false);
        assert_eq!(three.what_next(), Next::GiveUp(vec![2, 3]));
        assert_eq!(three.what_next(), Next::Nothing);
    }

    #[test]
    fn only_where_it_is_wanted_and_too_many_fail_do_the_others_go_back() {
        let mut tolerant = UpdateConfig { max_failure_ratio: 0.25, ..UpdateConfig::default() };
        let mut pauses = Batches::<u32>::new(tolerant.clone(), 4);
        tolerant.failure_action = FailureAction::Rollback;
        let mut back = Batches::<u32>::new(tolerant, 4);
        back.ended(false);
        assert!(!back.goes_back());
        back.newcomer_failed();
        assert!(back.goes_back());
        pauses.ended(false);
        pauses.ended(false);
        assert!(!pauses.goes_back());
    }

    #[test]
    fn half_way_an_old_container_that_runs_wins_and_otherwise_the_new_one() {
        assert_eq!(mend(Half::Runs, Half::Runs), Mend::Back);
        assert_eq!(mend(Half::Stopped, Half::Runs), Mend::Forward);
        assert_eq!(mend(Half::Gone, Half::Stopped), Mend::Forward);
        assert_eq!(mend(Half::Gone, Half::Gone), Mend::Nothing);
    }
}
