//! What the BMC does when it is told.

use super::Inside;

/// An answer, as it is encrypted.
pub(super) fn message(function: u8, number: u8, command: u8, answer: &[u8], bad: bool) -> Vec<u8> {
    let sum = |bytes: &[u8]| {
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        if bad { sum ^ 0x55 } else { sum }
    };
    let mut message = vec![0x81, (function >> 2 | 1) << 2];
    message.push(sum(&message));
    message.extend_from_slice(&[0x20, number & 0xfc, command]);
    message.extend_from_slice(answer);
    message.push(sum(&message[3..]));
    message
}

impl Inside {
    /// Completion code and data; `None` is silence.
    pub(super) fn command(&mut self, id: u32, request: &[u8]) -> Option<Vec<u8>> {
        let (function, command) = (request[1] >> 2, request[5]);
        let data = &request[6..request.len() - 1];
        if self.nature.forgets > 0 {
            self.nature.forgets -= 1;
            self.sessions.remove(&id);
            return None;
        }
        let session = self.sessions.get_mut(&id)?;
        let level = if self.nature.no_raise { 4 } else { session.level };
        let copy = session.copies.entry(request[4] >> 2).or_default();
        *copy += 1;
        let copy = *copy;
        let mut record = self.record.lock().unwrap();
        record.commands.push((function, command, data.first().copied()));
        if self.nature.busy > 0 && function == 0 {
            self.nature.busy -= 1;
            return Some(vec![self.nature.busy_code]);
        }
        let mut answer = match (function, command) {
            (6, 0x01) if self.nature.short_answers => {
                vec![0, 0x20, 1, 2, 0x34, 2, 0x80, 0x91, 0x12, 0, 2, 0x0f]
            }
            (6, 0x01) => vec![0, 0x20, 1, 2, 0x34, 2, 0x80, 0x91, 0x12, 0, 2, 0x0f, 1, 2, 3, 4],
            (6, 0x3b) if self.nature.no_raise => vec![0xc1],
            (6, 0x3b) if data[0] > self.nature.privilege => vec![0x81],
            (6, 0x3b) => {
                session.level = data[0].max(session.level);
                vec![0, session.level]
            }
            (6, 0x3c) => vec![0],
            (0, 0x01) => {
                record.readings += 1;
                if self.nature.returns_at == Some(record.readings) {
                    record.power = true;
                }
                vec![0, u8::from(record.power), 0, 0]
            }
            (0, 0x02) | (6, 0x22 | 0x24) if level < 3 => vec![0xd4],
            (0, 0x02) => {
                let done = control(&mut record.power, data[0], self.nature.lies);
                drop(record);
                self.control_answer(done, data[0], copy)?
            }
            (6, 0x24) => {
                record.timer = data.try_into().unwrap();
                record.timer_runs = false;
                vec![0]
            }
            (6, 0x22) if record.timer == [0; 6] => vec![0x80],
            (6, 0x22) => {
                record.timer_runs = true;
                vec![0]
            }
            (6, 0x25) => {
                let [purpose, action, pre, _, low, high] = record.timer;
                let running = if record.timer_runs { 0x40 } else { 0 };
                let mut answer = vec![0, purpose | running, action, pre, 0, low, high, low, high];
                if self.nature.short_answers {
                    answer.truncate(7);
                }
                answer
            }
            _ => vec![0xc1],
        };
        if self.nature.tail && (function, command) != (6, 0x25) {
            answer.extend_from_slice(&[0xaa; 35]);
        }
        Some(answer)
    }

    /// What is said to a power command; `same` is 1 where the state was there already.
    fn control_answer(&mut self, same: u8, what: u8, copy: u32) -> Option<Vec<u8>> {
        let nature = &self.nature;
        if same != 0 && nature.strict_state {
            return Some(vec![0xd5]);
        }
        if nature.dies_of_reset && what > 1 {
            self.sessions.clear();
            return None;
        }
        match copy {
            copy if copy >= nature.answers_copy => Some(vec![0]),
            1 => None,
            _ => Some(vec![0xcf]),
        }
    }
}

/// Does what it is told; 1 if it was so already.
fn control(power: &mut bool, what: u8, lies: bool) -> u8 {
    let before = *power;
    let after = match what {
        0 => false,
        1 => true,
        _ => before,
    };
    if !lies {
        *power = after;
    }
    u8::from(match what {
        0 => !before,
        1 => before,
        _ => !before,
    })
}
