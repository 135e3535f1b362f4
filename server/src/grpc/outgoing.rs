//! What HTTP/2 refuses by itself: too many streams, too many that are taken back, what is no HTTP/2. It tells nobody but the other end,
//! so it is read from what is sent there.

/// A frame begins with its length, its type, flags and a stream.
const HEAD_BYTES: usize = 9;
/// And of those that matter, the code is within so many bytes more.
const CODE_BYTES: usize = 8;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A call: there are too many on this connection.
    Streams,
    /// The connection: too much was taken back, or came in pieces without end.
    TooMuch,
    /// The connection: it is no HTTP/2.
    Protocol,
}

/// Reads frames as they are written, in pieces of any size.
#[derive(Debug, Default)]
pub struct Outgoing {
    kept: [u8; HEAD_BYTES + CODE_BYTES],
    filled: usize,
    /// Of a frame that does not matter.
    skip: usize,
}

impl Outgoing {
    /// More is written. `refused` is called for each refusal in it.
    pub fn wrote(&mut self, mut bytes: &[u8], mut refused: impl FnMut(Refusal)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = self.wanted() - self.filled;
            let taken = wanted.min(bytes.len());
            self.kept[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.wanted() {
                if let Some(refusal) = self.refusal() {
                    refused(refusal);
                }
                self.skip = self.length() - (self.filled - HEAD_BYTES);
                self.filled = 0;
            }
        }
    }

    /// Bytes of this frame that have to be there: the head, then of some the code, too.
    fn wanted(&self) -> usize {
        let code = match self.kept[3] {
            _ if self.filled < HEAD_BYTES => 0,
            RST_STREAM | GOAWAY => self.length().min(CODE_BYTES),
            _ => 0,
        };
        HEAD_BYTES + code
    }

    fn length(&self) -> usize {
        let [high, middle, low] = [self.kept[0], self.kept[1], self.kept[2]].map(usize::from);
        high << 16 | middle << 8 | low
    }

    fn refusal(&self) -> Option<Refusal> {
        let code = |at: usize| Some(u32::from_be_bytes(self.kept.get(at..at + 4)?.try_into().ok()?));
        match (self.kept[3], self.filled - HEAD_BYTES) {
            (RST_STREAM, 4) => (code(HEAD_BYTES)? == REFUSED_STREAM).then_some(Refusal::Streams),
            (GOAWAY, 8) => match code(HEAD_BYTES + 4)? {
                0 => None,
                ENHANCE_YOUR_CALM => Some(Refusal::TooMuch),
                _ => Some(Refusal::Protocol),
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn refusals_are_seen_however_they_are_cut() {
        let goaway = |code: u8| frame(GOAWAY, &[0, 0, 0, 9, 0, 0, 0, code]);
        let stream = [
            frame(4, &[9; 18]),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(0, &[7; 300]),
            frame(RST_STREAM, &[0, 0, 0, 7]),
            frame(4, &[]),
            goaway(0),
            goaway(1),
            [&goaway(11)[..], b"too_many_resets"].concat(),
        ];
        let mut stream = stream.concat();
        // The last one has words with it.
        let at = stream.len() - 15 - 17;
        stream[at + 2] = 8 + 15;
        for piece in [1, 2, 5, 9, 10, 17, 64, stream.len()] {
            let (mut outgoing, mut found) = (Outgoing::default(), vec![]);
            stream.chunks(piece).for_each(|bytes| outgoing.wrote(bytes, |refusal| found.push(refusal)));
            assert_eq!(found, [Refusal::Streams, Refusal::Protocol, Refusal::TooMuch], "in pieces of {piece}");
            assert_eq!((outgoing.filled, outgoing.skip), (0, 0));
        }
    }
}
