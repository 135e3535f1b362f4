//! Offsets of structure members from the kernel's BTF (Documentation/bpf/btf.rst).

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// The types of a kernel.
pub(super) struct Types {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type; type 0 is void and has none.
    positions: Vec<usize>,
}

impl Types {
    /// Finds the types in the raw data.
    pub(super) fn parse(data: Vec<u8>) -> Result<Self, &'static str> {
        let mut types = Self { data, strings: 0, positions: vec![0] };
        if types.data.get(..2) != Some(&MAGIC.to_ne_bytes()[..]) {
            return Err("no BTF of this machine's byte order");
        }
        let header = types.word(4).ok_or("header is cut off")? as usize;
        let part = |at| types.word(at).map(|word| word as usize).ok_or("header is cut off");
        let (start, length, strings) = (header + part(8)?, part(12)?, header + part(16)?);
        types.strings = strings;
        let mut at = start;
        while at < start + length {
            types.positions.push(at);
            at = types.end_of(at).ok_or("a type is cut off or unknown")?;
        }
        Ok(types)
    }

    /// Offset in bytes of a member, which may stand in an unnamed structure or union inside.
    pub(super) fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        self.member_bit(structure, member).map(|bits| bits / 8)
    }

    /// Offset in bits of a member, the least significant first.
    pub(super) fn member_bit(&self, structure: &str, member: &str) -> Option<u32> {
        let id = (1..self.positions.len() as u32).find(|&id| {
            let at = self.positions[id as usize];
            self.kind(at) == Some(KIND_STRUCT)
                && self.word(at).and_then(|name| self.name(name)) == Some(structure.as_bytes())
        })?;
        self.find(id, member, 0)
    }

    fn find(&self, id: u32, member: &str, depth: u32) -> Option<u32> {
        let at = *self.positions.get(id as usize)?;
        if depth > 8 || !matches!(self.kind(at)?, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let info = self.word(at + 4)?;
        (0..info & 0xffff).find_map(|index| {
            let entry = at + 12 + index as usize * 12;
            let (name, kind, mut bits) = (self.word(entry)?, self.word(entry + 4)?, self.word(entry + 8)?);
            if info >> 31 == 1 {
                // With bit fields the upper byte is a size.
                bits &= 0x00ff_ffff;
            }
            match self.name(name)? {
                b"" => self.find(kind, member, depth + 1).map(|inner| bits + inner),
                found => (found == member.as_bytes()).then_some(bits),
            }
        })
    }

    fn end_of(&self, at: usize) -> Option<usize> {
        let entries = (self.word(at + 4)? & 0xffff) as usize;
        let extra = match self.kind(at)? {
            // Integers, variables and tags have a word more.
            1 | 14 | 17 => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | 15 | 19 => entries * 12,
            6 | 13 => entries * 8,
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
        Some(at + 12 + extra)
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(self.word(at + 4)? >> 24 & 0x1f)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.data.get(at..at + 4)?.try_into().ok()?))
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        let text = self.data.get(self.strings + offset as usize..)?;
        text.split(|&byte| byte == 0).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_members_of_this_kernel() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            println!("skipped: this kernel has no BTF");
            return;
        };
        let types = Types::parse(data).unwrap();
        assert_eq!(types.member_offset("sock", "__sk_common"), Some(0));
        assert!(types.member_offset("sock", "sk_err").unwrap() > 0);
        assert_eq!(types.member_offset("sock", "no_such_member"), None);
        assert_eq!(types.member_offset("no_such_structure", "x"), None);
    }

    #[test]
    fn cut_off_data_is_an_error() {
        assert!(Types::parse(vec![]).is_err());
        assert!(Types::parse(MAGIC.to_ne_bytes().to_vec()).is_err());
    }
}
