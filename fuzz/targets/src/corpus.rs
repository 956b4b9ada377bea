//! Many inputs in one file: a first line, then each input behind its length.

/// The first line. It is no UTF-8, so that nobody takes such a file for a text.
const HEADER: &[u8] = b"\xffhaguard-corpus 1\n";

/// One file of these inputs, shortest first and each once.
pub fn pack(mut inputs: Vec<Vec<u8>>) -> Vec<u8> {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let mut file = HEADER.to_vec();
    for input in inputs {
        let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
        file.extend(length.to_be_bytes());
        file.extend(input.iter().take(length as usize));
    }
    file
}

/// The inputs of a file.
///
/// # Errors
/// In a sentence, for a file that is none, or is cut.
pub fn unpack(file: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut rest = file.strip_prefix(HEADER).ok_or("is no corpus")?;
    let mut inputs = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk().ok_or("is cut in a length")?;
        let length = u32::from_be_bytes(*length) as usize;
        let (input, next) = behind.split_at_checked(length).ok_or("is cut in an input")?;
        inputs.push(input);
        rest = next;
    }
    Ok(inputs)
}
