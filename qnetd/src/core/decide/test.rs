//! The test algorithm: everyone has the vote, whatever they report (wire 4.1). Unsafe by design,
//! it makes every partition quorate; for developers.

use super::Decision;

pub(super) fn decide() -> Decision {
    Decision::All
}
