//! CRC-32C (RFC 3720 appendix B.4), by the processor's carry-less multiplication where it has one: every byte that comes from a
//! disk goes through here, at about twice the speed of the crc32 instruction.

use crc_fast::{CrcAlgorithm, Digest};

/// Of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// Of what `crc` is the checksum of, and `bytes` behind it.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_that_rfc_3720_gives() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        for (bytes, expected) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&up, 0x46dd_794e),
            (&down, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let whole: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
        for cut in [0, 1, 15, 16, 255, 256, 4095, 65_536, 99_999, 100_000] {
            let (front, back) = whole.split_at(cut);
            assert_eq!(crc32c_append(crc32c(front), back), crc32c(&whole), "{cut}");
        }
    }
}
