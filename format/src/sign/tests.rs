use super::*;
use std::collections::HashMap;

fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2));
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The vectors of RFC 8032, section 7.1: name, secret, public, message, signature.
fn vectors() -> Vec<(String, [Vec<u8>; 4])> {
    let blocks = include_str!("rfc8032.txt").split("# ").skip(1).map(|block| {
        let (name, lines) = block.split_once('\n').unwrap();
        let mut parts: HashMap<&str, String> = HashMap::new();
        for line in lines.lines() {
            let (part, digits) = line.split_once(' ').unwrap_or((line, ""));
            *parts.entry(part).or_default() += digits;
        }
        (name.to_string(), ["secret", "public", "message", "signature"].map(|part| unhex(&parts[part])))
    });
    blocks.collect()
}

#[test]
fn the_vectors_of_rfc_8032() {
    let all = vectors();
    let lengths: Vec<_> = all.iter().map(|(name, [_, _, message, _])| (name.as_str(), message.len())).collect();
    assert_eq!(lengths, [("TEST 1", 0), ("TEST 2", 1), ("TEST 3", 2), ("TEST 1024", 1023), ("TEST SHA(abc)", 64)]);
    for (name, [secret, public, message, signature]) in all {
        let (key, signature) = (SecretKey::from_seed(&secret.try_into().unwrap()), signature.try_into().unwrap());
        assert_eq!(key.public().0, *public, "{name}");
        assert_eq!(key.sign(&message), signature, "{name}");
        assert!(key.public().verify(&message, &signature), "{name}");
        assert!(!key.public().verify(&[&message[..], &[0]].concat(), &signature), "{name}");
        for bit in 0..512 {
            let mut changed = signature;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.public().verify(&message, &changed), "{name}, bit {bit}");
        }
    }
}

/// Adds the group's order to the second half of a signature: the same number to a lax reader.
fn not_canonical(mut signature: [u8; 64]) -> [u8; 64] {
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0;
    for (byte, more) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    signature
}

#[test]
fn a_signature_has_one_form_and_a_key_of_small_order_signs_nothing() {
    let key = SecretKey::from_seed(&[7; 32]);
    let root = [3; 32];
    let mut signature = Signature::new(&key, &root);
    signature.verify(&root).unwrap();
    assert!(matches!(signature.verify(&[4; 32]), Err(SignatureError::Wrong { .. })));
    signature.bytes = not_canonical(signature.bytes);
    assert!(matches!(signature.verify(&root), Err(SignatureError::Wrong { .. })));
    // With the neutral element as key and as R, and S = 0, a lax reader would accept any message.
    let neutral = PublicKey(std::array::from_fn(|i| u8::from(i == 0)));
    let bytes = std::array::from_fn(|i| u8::from(i == 0));
    let scheme = SignatureScheme::Root;
    assert!(matches!(Signature { scheme, key: neutral, bytes }.verify(&root), Err(SignatureError::Wrong { .. })));
    let other = PublicKey(std::array::from_fn(|i| if i == 0 { 2 } else { 0 }));
    assert!(matches!(Signature { scheme, key: other, bytes }.verify(&root), Err(SignatureError::Wrong { .. })));
}

/// A signature of one scheme is none of the other, and none of what else the key may sign.
#[test]
fn each_scheme_signs_its_own_message() {
    let (key, root) = (SecretKey::from_seed(&[7; 32]), [3; 32]);
    let new = Signature::new(&key, &root);
    let old = Signature { scheme: SignatureScheme::Root, bytes: key.sign(&root), ..new };
    assert_eq!(new.scheme, SignatureScheme::Context);
    for signature in [old, new] {
        signature.verify(&root).unwrap();
        assert_eq!(Signature::decode(&signature.encode()).unwrap(), Some(signature));
    }
    for confused in [Signature { bytes: old.bytes, ..new }, Signature { bytes: new.bytes, ..old }] {
        assert!(matches!(confused.verify(&root), Err(SignatureError::Wrong { .. })));
    }
}

#[test]
fn the_place_is_read_as_it_is_written_and_nothing_else() {
    let signature = Signature::new(&SecretKey::from_seed(&[1; 32]), &[2; 32]);
    let place = signature.encode();
    assert_eq!(Signature::decode(&place).unwrap(), Some(signature));
    assert_eq!(Signature::decode(&[0; 128]).unwrap(), None);
    for bit in 0..8 * place.len() {
        let (mut changed, mut stripped) = (place, [0; 128]);
        changed[bit / 8] ^= 1 << (bit % 8);
        stripped[bit / 8] ^= 1 << (bit % 8);
        match (bit / 8, Signature::decode(&changed)) {
            (0, Err(FormatError::Reserved { .. })) if bit == 1 => {}
            (0..4, Err(FormatError::SignatureScheme { scheme })) => assert_eq!(scheme, LE::read_u32(&changed)),
            (4..8 | 104.., Err(FormatError::Reserved { .. })) => {}
            (8..104, Ok(Some(read))) => {
                assert!(matches!(read.verify(&[2; 32]), Err(SignatureError::Wrong { .. })), "bit {bit}");
            }
            (_, other) => panic!("bit {bit}: {other:?}"),
        }
        Signature::decode(&stripped).expect_err("one bit where there is no signature");
    }
    // A signature without its second half, or without its key.
    let mut short = place;
    short[72..].fill(0);
    assert!(Signature::decode(&short).unwrap().unwrap().verify(&[2; 32]).is_err());
    let mut keyless = place;
    keyless[KEY].fill(0);
    assert!(matches!(Signature::decode(&keyless), Err(FormatError::Reserved { .. })));
}
