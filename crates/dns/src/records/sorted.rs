//! Sorted sets in shared pieces: a change copies one piece, and a clone shares all of them.
//!
//! ```text
//!  pieces:  [a b c d]  [e f]  [g h i]      each an Arc, none empty, 128 elements at most
//! ```
//!
//! Denser than a tree: no room is kept free, and reading in order touches one run of memory per piece.

use std::cmp::Ordering;
use std::sync::Arc;

use smallvec::SmallVec;

/// Most elements of a piece.
const PIECE: usize = 128;

/// Elements in an order that the caller keeps: every method that compares takes how an element lies to what is sought.
#[derive(Clone, Debug)]
pub struct Sorted<T> {
    pieces: SmallVec<[Arc<[T]>; 1]>,
    len: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { pieces: SmallVec::new(), len: 0 }
    }
}

/// Equal elements, however they are cut into pieces.
impl<T: PartialEq> PartialEq for Sorted<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T> Sorted<T> {
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }

    /// Those from the `start`-th on, in order.
    pub fn iter_from(&self, start: usize) -> impl Iterator<Item = &T> {
        let (mut piece, mut rest) = (0, start);
        while self.pieces.get(piece).is_some_and(|found| found.len() <= rest) {
            rest -= self.pieces[piece].len();
            piece += 1;
        }
        self.pieces[piece.min(self.pieces.len())..].iter().flat_map(|piece| piece.iter()).skip(rest)
    }

    /// How many lie before the first for which `is_before` is false; those for which it is true must come first.
    pub fn count_before(&self, is_before: impl Fn(&T) -> bool) -> usize {
        let piece = self.pieces.partition_point(|piece| piece.last().is_some_and(&is_before));
        let whole: usize = self.pieces[..piece].iter().map(|piece| piece.len()).sum();
        whole + self.pieces.get(piece).map_or(0, |piece| piece.partition_point(is_before))
    }

    /// Those that `lies` calls equal; they must stand together.
    pub fn equal<'s>(&'s self, lies: impl Fn(&T) -> Ordering + 's) -> impl Iterator<Item = &'s T> {
        let piece = self.pieces.partition_point(|piece| piece.last().is_some_and(|last| lies(last).is_lt()));
        let start = self.pieces.get(piece).map_or(0, |piece| piece.partition_point(|element| lies(element).is_lt()));
        let found = self.pieces[piece..].iter().flat_map(|piece| piece.iter()).skip(start);
        found.take_while(move |element| lies(element).is_eq())
    }
}

impl<T: Clone> Sorted<T> {
    /// Takes elements that are in order.
    pub fn from_sorted(elements: &[T]) -> Self {
        Self { pieces: elements.chunks(PIECE).map(Arc::from).collect(), len: elements.len() }
    }

    /// Puts `element` where it belongs, in place of one that `lies` calls equal. Gives that one.
    pub fn put(&mut self, element: T, lies: impl Fn(&T) -> Ordering) -> Option<T> {
        let Some(last) = self.pieces.len().checked_sub(1) else {
            self.pieces.push(Arc::from([element].as_slice()));
            self.len = 1;
            return None;
        };
        let at = self.pieces.partition_point(|piece| piece.last().is_some_and(|last| lies(last).is_lt())).min(last);
        let place = self.pieces[at].binary_search_by(&lies);
        let mut piece = self.pieces[at].to_vec();
        let old = match place {
            Ok(place) => Some(std::mem::replace(&mut piece[place], element)),
            Err(place) => {
                piece.insert(place, element);
                self.len += 1;
                None
            }
        };
        match piece.len() > PIECE {
            true => {
                let upper = piece.split_off(piece.len() / 2);
                self.pieces.insert(at + 1, upper.into());
                self.pieces[at] = piece.into();
            }
            false => self.pieces[at] = piece.into(),
        }
        old
    }

    /// Takes away the one that `lies` calls equal, if it is there.
    pub fn take(&mut self, lies: impl Fn(&T) -> Ordering) -> Option<T> {
        let at = self.pieces.partition_point(|piece| piece.last().is_some_and(|last| lies(last).is_lt()));
        let place = self.pieces.get(at)?.binary_search_by(&lies).ok()?;
        let mut piece = self.pieces[at].to_vec();
        let old = piece.remove(place);
        self.len -= 1;
        match piece.is_empty() {
            true => drop(self.pieces.remove(at)),
            false => self.pieces[at] = piece.into(),
        }
        self.join(at);
        Some(old)
    }

    /// Joins a piece that got small with the next, so that taking away leaves no crumbs.
    fn join(&mut self, at: usize) {
        let (Some(piece), Some(next)) = (self.pieces.get(at), self.pieces.get(at + 1)) else { return };
        if piece.len() + next.len() <= PIECE / 2 {
            self.pieces[at] = [&piece[..], &next[..]].concat().into();
            self.pieces.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_holds_what_a_plain_set_holds(steps in vec((any::<bool>(), 0..700u16), 0..1500)) {
            let (mut sorted, mut plain) = (Sorted::default(), BTreeSet::new());
            for (puts, number) in steps {
                match puts {
                    true => prop_assert_eq!(sorted.put(number, |n| n.cmp(&number)).is_none(), plain.insert(number)),
                    false => prop_assert_eq!(sorted.take(|n| n.cmp(&number)).is_some(), plain.remove(&number)),
                }
            }
            prop_assert_eq!(sorted.len(), plain.len());
            prop_assert!(sorted.iter().eq(plain.iter()));
            prop_assert!(sorted.pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
            for number in [0, 1, 350, 699, 700] {
                let before = plain.range(..number).count();
                prop_assert_eq!(sorted.count_before(|n| *n < number), before);
                prop_assert!(sorted.iter_from(before).eq(plain.range(number..)));
                prop_assert_eq!(sorted.equal(|n| n.cmp(&number)).count(), usize::from(plain.contains(&number)));
            }
            let elements: Vec<u16> = plain.iter().copied().collect();
            prop_assert_eq!(Sorted::from_sorted(&elements), sorted);
        }
    }
}
