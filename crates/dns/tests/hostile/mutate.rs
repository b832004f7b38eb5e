//! Packets made worse, in the ways that packets are made worse by those who mean harm.

/// A generator of numbers that anybody can repeat: xorshift64*, seeded.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    pub fn byte(&mut self) -> u8 {
        (self.next() >> 40) as u8
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

/// One of `corpus`, changed in one to six ways; now and then as it is.
pub fn mutated(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = dice.pick(corpus).clone();
    for _ in 0..dice.below(7) {
        mutate(dice, &mut packet, corpus);
    }
    packet
}

fn mutate(dice: &mut Dice, packet: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    if packet.is_empty() {
        packet.clone_from(dice.pick::<Vec<u8>>(corpus));
    }
    let at = dice.below(packet.len());
    match dice.below(16) {
        0..3 => packet[at] ^= 1 << dice.below(8),
        3..5 => packet[at] = dice.byte(),
        5 => packet.truncate(at),
        6 => count(dice, packet),
        7 => flags(dice, packet),
        8 => pointer(dice, packet, at),
        9 => length(dice, packet, at),
        10 => opts(dice, packet),
        11 => splice(dice, packet, corpus),
        12 => drop(packet.drain(at..(at + 1 + dice.below(8)).min(packet.len()))),
        13 => packet.extend((0..dice.below(64)).map(|_| 0)),
        14 => long_labels(dice, packet),
        _ if dice.below(64) == 0 => huge(dice, packet),
        _ => packet.insert(at, dice.byte()),
    }
}

/// One of the header's four counts.
fn count(dice: &mut Dice, packet: &mut [u8]) {
    let value = *dice.pick(&[0u16, 1, 2, 3, 255, 256, 0x7fff, 0xffff]);
    let at = 4 + 2 * dice.below(4);
    if let Some(place) = packet.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn flags(dice: &mut Dice, packet: &mut [u8]) {
    if let Some(place) = packet.get_mut(2..4) {
        place.copy_from_slice(&(dice.next() as u16).to_be_bytes());
    }
}

/// Compression pointers: to itself, forwards, to the header, out of the packet.
fn pointer(dice: &mut Dice, packet: &mut [u8], at: usize) {
    let target = match dice.below(4) {
        0 => at,
        1 => at.saturating_sub(2),
        2 => dice.below(0x3fff),
        _ => 12,
    };
    if let Some(place) = packet.get_mut(at..at + 2) {
        place.copy_from_slice(&(0xc000 | target as u16 & 0x3fff).to_be_bytes());
    }
}

/// A length that is a little, or much, too long or too short.
fn length(dice: &mut Dice, packet: &mut [u8], at: usize) {
    if let Some(place) = packet.get_mut(at..at + 2) {
        let old = u16::from_be_bytes([place[0], place[1]]);
        let new = *dice.pick(&[old.wrapping_add(1), old.wrapping_sub(1), 0, 0xff, 0xffff, 0x8000]);
        place.copy_from_slice(&new.to_be_bytes());
    }
}

/// OPT records at the end, with sizes, versions and options of their own, counted or not.
fn opts(dice: &mut Dice, packet: &mut Vec<u8>) {
    for _ in 0..1 + dice.below(4) {
        let size = *dice.pick(&[0u16, 1, 511, 512, 1232, 4096, 0xffff]);
        let mut opt = vec![0, 0, 41];
        opt.extend_from_slice(&size.to_be_bytes());
        opt.extend_from_slice(&[dice.byte() & 1, *dice.pick(&[0, 0, 0, 1, 255]), dice.byte(), 0]);
        let options = dice.below(24);
        opt.extend_from_slice(&(options as u16).to_be_bytes());
        opt.extend((0..options).map(|_| dice.byte()));
        packet.extend_from_slice(&opt);
        if let (true, Some(count)) = (dice.below(4) > 0, packet.get_mut(11)) {
            *count = count.wrapping_add(1);
        }
    }
}

/// The head of one packet, the tail of another.
fn splice(dice: &mut Dice, packet: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let other = dice.pick(corpus);
    packet.truncate(dice.below(packet.len() + 1));
    packet.extend_from_slice(&other[dice.below(other.len())..]);
}

/// A question of labels as long as they may be, and longer.
fn long_labels(dice: &mut Dice, packet: &mut Vec<u8>) {
    packet.truncate(12);
    for _ in 0..1 + dice.below(6) {
        let length = *dice.pick(&[1u8, 62, 63, 63, 63, 64, 128]);
        packet.push(length);
        packet.extend((0..length & 63).map(|_| dice.byte()));
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
}

/// As long as a packet can be.
fn huge(dice: &mut Dice, packet: &mut Vec<u8>) {
    let fill = dice.byte();
    let length = *dice.pick(&[4096usize, 16_384, 65_535]);
    packet.resize(length.max(packet.len()), fill);
}
