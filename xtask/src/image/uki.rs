//! One file that UEFI starts: systemd's stub with kernel, initramfs and command line as further sections (the UAPI group's
//! Unified Kernel Image). The offsets are those of the PE/COFF specification.

use anyhow::{Context as _, Result, ensure};

/// The stub of Debian's package `systemd-boot-efi`.
pub(crate) const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Bytes of a section's header.
const SECTION: usize = 40;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const READ_ONLY_DATA: u32 = 0x4000_0040;

fn half(bytes: &[u8], at: usize) -> Result<usize> {
    let value = bytes.get(at..).and_then(|b| b.first_chunk());
    let value = value.with_context(|| format!("the stub ends before byte {at}"))?;
    Ok(u16::from_le_bytes(*value).into())
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let value = bytes.get(at..).and_then(|b| b.first_chunk());
    let value = value.with_context(|| format!("the stub ends before byte {at}"))?;
    Ok(usize::try_from(u32::from_le_bytes(*value))?)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    let place = bytes.get_mut(at..at + value.len());
    place
        .with_context(|| format!("the stub ends before byte {at}"))?
        .copy_from_slice(value);
    Ok(())
}

fn put_word(bytes: &mut [u8], at: usize, value: usize) -> Result<()> {
    put(bytes, at, &u32::try_from(value)?.to_le_bytes())
}

/// Where a section is in memory and in the file.
struct Section {
    memory: (usize, usize),
    file: (usize, usize),
}

/// Appends sections, name and content, to a PE file.
pub(crate) fn append(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut pe = stub.to_vec();
    let header = word(&pe, 0x3c)?;
    ensure!(
        pe.get(header..header + 4) == Some(b"PE\0\0"),
        "the stub is no PE file"
    );
    let count = half(&pe, header + 6)?;
    let optional = header + 24;
    let table = optional + half(&pe, header + 20)?;
    let (memory_step, file_step) = (word(&pe, optional + 32)?, word(&pe, optional + 36)?);
    ensure!(
        memory_step > 0 && file_step > 0,
        "the stub has no alignment"
    );
    let mut have = Vec::new();
    for number in 0..count {
        let at = table + SECTION * number;
        have.push(Section {
            memory: (word(&pe, at + 12)?, word(&pe, at + 8)?),
            file: (word(&pe, at + 20)?, word(&pe, at + 16)?),
        });
    }
    let room = have.iter().filter(|s| s.file.1 > 0).map(|s| s.file.0).min();
    let room = room.unwrap_or(0).min(word(&pe, optional + 60)?);
    ensure!(
        table + SECTION * (count + sections.len()) <= room,
        "the stub has no room for {} more sections",
        sections.len()
    );
    // Symbols, if it has any, would stand where the new sections go.
    put(&mut pe, header + 8 + 4, &[0; 8])?;
    let end = |(start, size): (usize, usize)| start + size;
    pe.truncate(have.iter().map(|s| end(s.file)).max().unwrap_or(0));
    let mut memory = have.iter().map(|s| end(s.memory)).max().unwrap_or(0);
    for (number, (name, content)) in (count..).zip(sections) {
        ensure!(name.len() <= 8, "`{name}` is longer than a section's name");
        memory = memory.next_multiple_of(memory_step);
        pe.resize(pe.len().next_multiple_of(file_step), 0);
        let file = pe.len();
        pe.extend(*content);
        pe.resize(pe.len().next_multiple_of(file_step), 0);
        let at = table + SECTION * number;
        put(&mut pe, at, &[0; SECTION])?;
        put(&mut pe, at, name.as_bytes())?;
        put_word(&mut pe, at + 8, content.len())?;
        put_word(&mut pe, at + 12, memory)?;
        let stored = pe.len() - file;
        put_word(&mut pe, at + 16, stored)?;
        put_word(&mut pe, at + 20, file)?;
        put(&mut pe, at + 36, &READ_ONLY_DATA.to_le_bytes())?;
        memory += content.len();
    }
    let total = u16::try_from(count + sections.len())?;
    put(&mut pe, header + 6, &total.to_le_bytes())?;
    put_word(&mut pe, optional + 56, memory.next_multiple_of(memory_step))?;
    put_word(&mut pe, optional + 64, 0)?; // its sum, which nobody looks at
    Ok(pe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file of one section, with room for `more`.
    fn stub(more: usize) -> Vec<u8> {
        let mut pe = vec![0; 0x400];
        let (header, optional) = (0x80, 0x98);
        put_word(&mut pe, 0x3c, header).expect("room");
        put(&mut pe, header, b"PE\0\0").expect("room");
        put(&mut pe, header + 6, &1_u16.to_le_bytes()).expect("room");
        put(&mut pe, header + 20, &112_u16.to_le_bytes()).expect("room");
        let table = optional + 112;
        let room = table + SECTION * (1 + more);
        for (at, value) in [(32, 0x1000), (36, 0x200), (60, room)] {
            put_word(&mut pe, optional + at, value).expect("room");
        }
        for (at, value) in [(8, 0x10), (12, 0x1000), (16, 0x200), (20, 0x200)] {
            put_word(&mut pe, table + at, value).expect("room");
        }
        pe
    }

    #[test]
    fn sections_are_appended() {
        let pe = append(&stub(2), &[(".linux", &[7; 0x300]), (".initrd", b"abc")]).expect("room");
        let (header, optional) = (0x80, 0x98);
        let table = optional + 112;
        assert_eq!(half(&pe, header + 6).expect("there"), 3);
        let field =
            |number: usize, at: usize| word(&pe, table + SECTION * number + at).expect("there");
        assert_eq!(
            (field(1, 8), field(1, 12), field(1, 16), field(1, 20)),
            (0x300, 0x2000, 0x400, 0x400)
        );
        assert_eq!(
            (field(2, 8), field(2, 12), field(2, 20)),
            (3, 0x3000, 0x800)
        );
        assert_eq!(pe.get(0x800..0x803), Some(b"abc".as_slice()));
        assert_eq!(pe.len(), 0xa00);
        assert_eq!(word(&pe, optional + 56).expect("there"), 0x4000);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(append(&stub(0), &[(".linux", b"a")]).is_err());
        assert!(append(b"MZ", &[]).is_err());
        assert!(append(&[0; 0x200], &[]).is_err());
        assert!(append(&stub(1), &[(".much-too-long", b"a")]).is_err());
    }
}
