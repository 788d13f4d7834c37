//! A disk with the file for UEFI where firmware looks for it, and a partition for a configuration.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::quiet;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where the partition of the configuration begins, in sectors, whatever the size of the rest: a tar archive is written
/// there.
pub(crate) const CONFIG_SECTOR: u64 = 2048;
/// Its size: what is read of it, and more.
const CONFIG_MIB: u64 = 8;
/// FAT32 has at least this size.
const ESP_MIB: u64 = 34;

/// Fixed, so that the same input gives the same disk.
const DISK_GUID: &str = "6b1f0d1c-4b0c-4a63-9a53-5f6d3a7d0001";
const CONFIG_GUID: &str = "6b1f0d1c-4b0c-4a63-9a53-5f6d3a7d0002";
const ESP_GUID: &str = "6b1f0d1c-4b0c-4a63-9a53-5f6d3a7d0003";
const FAT_ID: &str = "52474154";

/// Writes the disk; `work` takes a file meanwhile.
pub(crate) fn make(uki: &Path, disk: &Path, work: &Path) -> Result<()> {
    let size = std::fs::metadata(uki)?.len();
    let esp_mib = (size.div_ceil(MIB) + 4).max(ESP_MIB);
    let esp_start = CONFIG_SECTOR * SECTOR + CONFIG_MIB * MIB;
    let esp = work.join("esp.img");
    File::create(&esp)?.set_len(esp_mib * MIB)?;
    let (image, from) = (esp.to_string_lossy(), uki.to_string_lossy());
    let format = [
        "-F",
        "32",
        "-n",
        "RINGGATE",
        "-i",
        FAT_ID,
        "--invariant",
        &image,
    ];
    quiet(&[&["mkfs.vfat"], format.as_slice()].concat())?;
    quiet(&["mmd", "-i", &image, "::/EFI", "::/EFI/BOOT"])?;
    quiet(&["mcopy", "-i", &image, &from, "::/EFI/BOOT/BOOTX64.EFI"])?;

    let mut file = File::create(disk)?;
    file.set_len(esp_start + esp_mib * MIB + MIB)?;
    let path = disk.to_string_lossy();
    let first = format!("1:{CONFIG_SECTOR}:+{CONFIG_MIB}M");
    let second = format!("2:{}:+{esp_mib}M", esp_start / SECTOR);
    quiet(&[
        "sgdisk",
        "-n",
        &first,
        "-t",
        "1:8300",
        "-c",
        "1:RINGGATE-CONFIG",
        "-n",
        &second,
        "-t",
        "2:ef00",
        "-c",
        "2:EFI",
        "-u",
        &format!("1:{CONFIG_GUID}"),
        "-u",
        &format!("2:{ESP_GUID}"),
        "-U",
        DISK_GUID,
        &path,
    ])?;
    file.seek(SeekFrom::Start(esp_start))?;
    file.write_all(&std::fs::read(&esp)?).context("the disk")?;
    std::fs::remove_file(esp)?;
    Ok(())
}
