//! What is under way, earliest first. Of two things at one time the one that was put in first
//! comes first, so that a run is the same run for ever.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use protocol::time::Time;

/// A queue. The heap orders small keys, and what they stand for never moves in it.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// When, a running number, and the place of what happens then.
    keys: BinaryHeap<Reverse<(Time, u64, usize)>>,
    places: Vec<Option<T>>,
    /// Places without anything.
    free: Vec<usize>,
    counter: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { keys: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), counter: 0 }
    }
}

impl<T> Queue<T> {
    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.keys.peek().map(|Reverse((at, ..))| *at)
    }

    pub(crate) fn put(&mut self, at: Time, what: T) {
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(empty) => *empty = Some(what),
            None => self.places.push(Some(what)),
        }
        self.counter += 1;
        self.keys.push(Reverse((at, self.counter, place)));
    }

    /// Takes the next thing out.
    pub(crate) fn pop(&mut self) -> Option<(Time, T)> {
        let Reverse((at, _, place)) = self.keys.pop()?;
        self.free.push(place);
        self.places.get_mut(place)?.take().map(|what| (at, what))
    }

    /// Takes everything out that `chosen` names, in order.
    pub(crate) fn take_all(&mut self, chosen: impl Fn(&T) -> bool) -> Vec<T> {
        let is_chosen = |place: usize| self.places.get(place)?.as_ref().filter(|t| chosen(t));
        let keys = self.keys.iter().map(|Reverse(key)| *key);
        let mut keys: Vec<(Time, u64, usize)> =
            keys.filter(|(_, _, place)| is_chosen(*place).is_some()).collect();
        keys.sort_unstable();
        self.keys.retain(|Reverse(key)| keys.binary_search(key).is_err());
        self.free.extend(keys.iter().map(|(_, _, place)| *place));
        let taken = keys.iter().map(|(_, _, place)| self.places.get_mut(*place)?.take());
        taken.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_one_time_the_one_that_was_first() {
        let mut queue = Queue::default();
        for (at, what) in [(5, "c"), (3, "a"), (5, "d"), (4, "b")] {
            queue.put(Time(at), what);
        }
        assert_eq!(queue.next_at(), Some(Time(3)));
        assert_eq!(queue.pop(), Some((Time(3), "a")));
        queue.put(Time(5), "e");
        let rest: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(_, what)| what).collect();
        assert_eq!(rest, ["b", "c", "d", "e"]);
        assert_eq!(queue.next_at(), None);
    }

    #[test]
    fn what_is_taken_out_comes_in_order_and_leaves_the_rest() {
        let mut queue = Queue::default();
        for (at, what) in [(9, 1), (7, 2), (8, 3), (7, 4)] {
            queue.put(Time(at), what);
        }
        assert_eq!(queue.take_all(|what| what % 2 == 0), [2, 4]);
        queue.put(Time(1), 5);
        let rest: Vec<i32> = std::iter::from_fn(|| queue.pop()).map(|(_, what)| what).collect();
        assert_eq!(rest, [5, 3, 1]);
    }
}
