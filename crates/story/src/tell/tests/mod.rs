//! Stories of evidence made by hand: as kernels tell it, rule by rule. Whole texts are goldens in `goldens/`, written anew by
//! `PORTOLAN_BLESS=1`; faults are rows of what is seen and what the verdict says of it.

mod faults;
mod healthy;
mod scene;
