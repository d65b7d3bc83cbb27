//! A few values, of which the one used longest ago gives way.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

pub struct Lru<K, V> {
    room: usize,
    clock: u64,
    values: HashMap<K, (V, u64)>,
    used: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    pub fn new(room: usize) -> Lru<K, V> {
        Lru { room, clock: 0, values: HashMap::new(), used: BTreeMap::new() }
    }

    pub fn get(&mut self, key: &K) -> Option<V> {
        let (value, at) = self.values.get_mut(key)?;
        self.clock += 1;
        self.used.remove(at);
        *at = self.clock;
        self.used.insert(self.clock, key.clone());
        Some(value.clone())
    }

    pub fn put(&mut self, key: K, value: V) {
        self.remove(&key);
        self.clock += 1;
        self.used.insert(self.clock, key.clone());
        self.values.insert(key, (value, self.clock));
        while self.values.len() > self.room
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.values.remove(&oldest);
        }
    }

    pub fn clear(&mut self) {
        self.values.clear();
        self.used.clear();
    }

    pub fn remove(&mut self, key: &K) {
        if let Some((_, at)) = self.values.remove(key) {
            self.used.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_used_longest_ago_goes() {
        let mut lru = Lru::new(2);
        lru.put(1, 'a');
        lru.put(2, 'b');
        assert_eq!(lru.get(&1), Some('a'));
        lru.put(3, 'c');
        assert_eq!((lru.get(&1), lru.get(&2), lru.get(&3)), (Some('a'), None, Some('c')));
        lru.put(3, 'd');
        lru.remove(&1);
        assert_eq!((lru.get(&1), lru.get(&3), lru.values.len(), lru.used.len()), (None, Some('d'), 1, 1));
    }
}
