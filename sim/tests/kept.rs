//! Seeds that found something are kept with their story in `sim/seeds` and replayed: in the sound
//! core they find nothing, and with the known bug put back that they were kept for they find it.

use std::path::Path;

use folkmoot_core::mutant;
use folkmoot_sim::run::run_seed;
use folkmoot_sim::shrink::Kept;

// One test only: which bug is put back is a matter of the whole process.
#[test]
fn kept_seeds_find_their_bug_and_nothing_else() {
    let dir = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("seeds");
    let mut count = 0;
    for file in std::fs::read_dir(dir).expect("there are kept seeds") {
        let path = file.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let kept = Kept::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let run = || run_seed(kept.seed, kept.profile, &kept.overrides, false).finding;
        let finding = run();
        assert!(finding.is_none(), "{}: {finding:?}", path.display());
        if let Some(name) = &kept.mutant
            && mutant::choose(Some(name))
        {
            let finding = run();
            mutant::choose(None);
            let checker = finding.map(|finding| finding.checker);
            assert_eq!(checker, Some(kept.checker.as_str()), "{}", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "there are kept seeds");
}
