use super::*;

use super::engines::Step;
use super::text;

const DB: &str = "db";
const OURS: DirIdentity = DirIdentity { cluster_id: ClusterId(0xc1), member_id: MemberId(0x3e) };

fn create(identity: DirIdentity) -> OpenOptions {
    OpenOptions { create: Some(identity), ..OpenOptions::default() }
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("dir").map(|entry| entry.expect("entry").path()));
            found.push((path, Vec::new()));
        } else {
            let bytes = fs::read(&path).expect("file");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn a_new_directory_is_its_owners_only_and_comes_back() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("above").join("data");
    let data = DataDir::open(&path, create(OURS)).expect("create");
    assert!(data.is_new());
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    fs::write(data.wal_dir().join("x"), b"").expect("write");
    drop(data);
    let data = DataDir::open(&path, OpenOptions::default()).expect("open");
    assert_eq!(data.identity(), OURS);
    assert!(!data.is_new());
}

#[test]
fn a_directory_that_must_exist_is_not_made() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("data");
    let error = DataDir::open(&path, OpenOptions::default()).expect_err("absent");
    assert!(matches!(error, StorageError::NoDataDir { .. }), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_second_process_is_refused_and_told_who_is_there() {
    let dir = tempfile::tempdir().expect("temp dir");
    let first = DataDir::open(dir.path(), create(OURS)).expect("create");
    let error = DataDir::open(dir.path(), create(OURS)).expect_err("locked").to_string();
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    drop(first);
    DataDir::open(dir.path(), create(OURS)).expect("free again");
}

#[test]
fn foreign_directories_are_refused_and_untouched() {
    for (name, is_etcd) in [("member/snap/db", true), ("notes.txt", false), ("wal/0.wal", false)] {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("above")).expect("dir");
        fs::write(&path, b"precious").expect("write");
        let before = snapshot(dir.path());
        let error = DataDir::open(dir.path(), create(OURS)).expect_err("foreign");
        assert_eq!(matches!(error, StorageError::EtcdDir { .. }), is_etcd, "{error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        assert_eq!(snapshot(dir.path()), before);
    }
}

#[test]
fn the_directory_of_another_member_or_cluster_is_refused_and_untouched() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    fs::write(data.wal_dir().join("x"), b"").expect("write");
    drop(data);
    let before = snapshot(dir.path());
    let other = OpenOptions { expect_member: Some(MemberId(1)), ..OpenOptions::default() };
    let error = DataDir::open(dir.path(), other).expect_err("other member");
    assert!(matches!(error, StorageError::WrongMember { .. }), "{error}");
    let other = OpenOptions { expect_cluster: Some(ClusterId(1)), ..OpenOptions::default() };
    let error = DataDir::open(dir.path(), other).expect_err("other cluster");
    assert!(matches!(error, StorageError::WrongCluster { .. }), "{error}");
    assert_eq!(snapshot(dir.path()), before);
    // An identity to create with is no demand.
    let other = DirIdentity { member_id: MemberId(1), ..OURS };
    assert_eq!(DataDir::open(dir.path(), create(other)).expect("opens").identity(), OURS);
}

#[test]
fn a_creation_cut_short_anywhere_is_completed() {
    let whole = tempfile::tempdir().expect("temp dir");
    drop(DataDir::open(whole.path(), create(OURS)).expect("create"));
    let steps: [&[&str]; 7] = [
        &[],
        &[LOCK],
        &[LOCK, WAL],
        &[LOCK, WAL, DB],
        &[LOCK, WAL, DB, TMP],
        &[LOCK, WAL, DB, TMP, SNAP],
        &[LOCK, WAL, DB, TMP, SNAP, META_BESIDE],
    ];
    for names in steps {
        let dir = tempfile::tempdir().expect("temp dir");
        for name in names {
            match *name {
                WAL | DB | TMP | SNAP => fs::create_dir(dir.path().join(name)).expect("dir"),
                _ => fs::write(dir.path().join(name), b"fol").expect("file"),
            }
        }
        let data = DataDir::open(dir.path(), create(OURS)).expect("completes");
        assert!(data.is_new());
        drop(data);
        let expected = snapshot(whole.path()).len();
        assert_eq!(snapshot(dir.path()).len(), expected, "{names:?}");
        // Nothing was written yet: corrected settings may still change whose it is.
        let other = DirIdentity { member_id: MemberId(9), ..OURS };
        let data = DataDir::open(dir.path(), create(other)).expect("still new");
        assert!(data.is_new());
        assert_eq!(data.identity(), other);
    }
}

#[test]
fn a_volume_root_counts_as_empty() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::create_dir(dir.path().join(LOST_AND_FOUND)).expect("dir");
    DataDir::open(dir.path(), create(OURS)).expect("create");
}

#[test]
fn temp_paths_differ_and_are_emptied_at_start() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    let (one, two) = (data.temp_path("snapshot"), data.temp_path("snapshot"));
    assert_ne!(one, two);
    fs::create_dir(&one).expect("dir");
    fs::write(one.join("part"), b"").expect("write");
    drop(data);
    DataDir::open(dir.path(), create(OURS)).expect("open");
    assert!(!one.exists());
}

#[test]
fn arriving_snapshots_do_not_survive_a_start() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    let staged = stage(&data, "1");
    drop(data);
    let data = DataDir::open(dir.path(), create(OURS)).expect("open");
    assert!(!staged.exists());
    assert!(data.snap_dir().is_dir());
}

#[test]
fn the_incarnation_stays_with_the_directory_and_differs_from_all_others() {
    let dir = tempfile::tempdir().expect("temp dir");
    let incarnation = DataDir::open(dir.path(), create(OURS)).expect("create").incarnation();
    let text = fs::read_to_string(dir.path().join(META)).expect("text");
    assert!(text.contains(&format!("\nincarnation {incarnation:x}\n")), "{text}");
    fs::write(dir.path().join(WAL).join("x"), b"").expect("write");
    assert_eq!(DataDir::open(dir.path(), create(OURS)).expect("open").incarnation(), incarnation);
    let other = tempfile::tempdir().expect("temp dir");
    assert_ne!(DataDir::open(other.path(), create(OURS)).expect("create").incarnation(), incarnation);
}

#[test]
fn a_directory_of_the_first_format_gets_an_incarnation_that_stays() {
    let dir = tempfile::tempdir().expect("temp dir");
    drop(DataDir::open(dir.path(), create(OURS)).expect("create"));
    fs::write(dir.path().join(DB).join("x"), b"rows").expect("write");
    fs::remove_dir(dir.path().join(SNAP)).expect("did not exist then");
    let fields = [
        ("format", "1".to_owned()),
        ("cluster", OURS.cluster_id.to_string()),
        ("member", OURS.member_id.to_string()),
    ];
    fs::write(dir.path().join(META), text::encode("folkmoot data directory", &fields)).expect("write");
    let data = DataDir::open(dir.path(), OpenOptions::default()).expect("open");
    assert_eq!(data.identity(), OURS);
    assert!(!data.is_new());
    assert_eq!(fs::read(data.db_dir().join("x")).expect("there"), b"rows");
    let incarnation = data.incarnation();
    drop(data);
    let data = DataDir::open(dir.path(), OpenOptions::default()).expect("open");
    assert_eq!(data.incarnation(), incarnation);
}

/// A directory that passes for a complete database, with its name in it.
fn stage(data: &DataDir, name: &str) -> PathBuf {
    let staged = data.snap_dir().join(name);
    fs::create_dir(&staged).expect("dir");
    for file in ["CURRENT", "000001.sst"] {
        fs::write(staged.join(file), name).expect("write");
    }
    staged
}

/// What is in the current engine of the directory, which is all there may be but for what always
/// is.
fn engine_alone(data: &DataDir) -> Vec<(String, Vec<u8>)> {
    let engine = data.db_dir();
    let mut expected = vec![LOCK.to_owned(), META.to_owned()];
    expected.extend([SNAP, TMP, WAL].map(str::to_owned));
    expected.push(engine.file_name().expect("name").to_string_lossy().into_owned());
    let mut names = list(data.path()).expect("list");
    names.retain(|name| name != engines::POINTER);
    expected.sort();
    names.sort();
    assert_eq!(names, expected);
    for empty in [data.snap_dir(), data.path().join(TMP)] {
        assert!(is_empty(&empty).expect("list"), "{}", empty.display());
    }
    let mut files = list(&engine).expect("list");
    files.sort();
    files.into_iter().map(|name| (name.clone(), fs::read(engine.join(name)).expect("read"))).collect()
}

fn staged_files(name: &str) -> Vec<(String, Vec<u8>)> {
    ["000001.sst", "CURRENT"].map(|file| (file.to_owned(), name.into())).to_vec()
}

/// Does an installation's steps before this one, as if the process ended there.
fn install_until(data: &DataDir, staged: &Path, end: Option<Step>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut before = |step| {
        if Some(step) == end {
            return Err(StorageError::Rewrite("the process ended here".into()));
        }
        steps.push(step);
        Ok(())
    };
    let number = engines::next_number(data.path()).expect("number");
    let done = engines::install(data.path(), staged, number, &mut before);
    assert_eq!(done.is_err(), end.is_some());
    steps
}

#[test]
fn an_engine_takes_the_place_of_the_old_one_and_waste_goes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    fs::write(data.db_dir().join("old"), b"old").expect("write");
    for (round, name) in ["one", "two"].into_iter().enumerate() {
        let old = data.db_dir();
        let new = data.install_engine(&stage(&data, name)).expect("install");
        assert_eq!(new, data.db_dir());
        assert_eq!(new, dir.path().join(format!("db.{}", round + 1)));
        assert!(old.exists(), "somebody may still read it");
        data.remove_old_engines().expect("remove");
        assert_eq!(engine_alone(&data), staged_files(name));
    }
    drop(data);
    let data = DataDir::open(dir.path(), create(OURS)).expect("open");
    assert!(!data.is_new(), "an engine that came as a snapshot is something written");
    assert_eq!(engine_alone(&data), staged_files("two"));
}

#[test]
fn two_engines_installed_shortly_after_each_other_do_not_disturb_those_in_use() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    let one = data.install_engine(&stage(&data, "one")).expect("install");
    let two = data.install_engine(&stage(&data, "two")).expect("install");
    assert!(one.is_dir() && two.is_dir() && dir.path().join(DB).is_dir());
    drop(data);
    let data = DataDir::open(dir.path(), create(OURS)).expect("open");
    assert_eq!(engine_alone(&data), staged_files("two"));
}

#[test]
fn an_installation_cut_short_anywhere_leaves_the_old_engine_or_the_new_one() {
    // First from `db`, then from an engine that was installed itself.
    for installed_before in [false, true] {
        for (at, end) in Step::ALL.into_iter().map(Some).chain([None]).enumerate() {
            let dir = tempfile::tempdir().expect("temp dir");
            let mut data = DataDir::open(dir.path(), create(OURS)).expect("create");
            fs::write(data.wal_dir().join("x"), b"log").expect("write");
            let old = if installed_before {
                data.install_engine(&stage(&data, "old")).expect("install");
                staged_files("old")
            } else {
                fs::write(data.db_dir().join("rows"), b"old").expect("write");
                vec![("rows".to_owned(), b"old".to_vec())]
            };
            // Cut short again and again: what one leaves behind must not help the next.
            for attempt in ["new", "newer", "newest"] {
                let steps = install_until(&data, &stage(&data, attempt), end);
                assert_eq!(steps, Step::ALL[..at], "each step once and in order");
                drop(data);
                data = DataDir::open(dir.path(), create(OURS)).expect("open");
                let replaced =
                    at > Step::ALL.iter().position(|step| *step == Step::ReplacePointer).expect("one");
                let expected = if replaced { staged_files(attempt) } else { old.clone() };
                assert_eq!(engine_alone(&data), expected, "end={end:?}");
                assert!(!data.is_new());
                assert_eq!(fs::read(data.wal_dir().join("x")).expect("there"), b"log");
            }
            data.install_engine(&stage(&data, "last")).expect("install");
            drop(data);
            let data = DataDir::open(dir.path(), create(OURS)).expect("open");
            assert_eq!(engine_alone(&data), staged_files("last"));
        }
    }
}

#[test]
fn a_pointer_half_written_counts_for_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    install_until(&data, &stage(&data, "new"), Some(Step::ReplacePointer));
    let whole = fs::read(dir.path().join(engines::POINTER_BESIDE)).expect("written");
    drop(data);
    for length in 0..whole.len() {
        fs::write(dir.path().join(engines::POINTER_BESIDE), &whole[..length]).expect("write");
        let data = DataDir::open(dir.path(), create(OURS)).expect("open");
        assert_eq!(engine_alone(&data), []);
    }
}

#[test]
fn the_removal_of_old_engines_cut_short_is_completed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    for file in ["a", "b"] {
        fs::write(data.db_dir().join(file), b"old").expect("write");
    }
    data.install_engine(&stage(&data, "new")).expect("install");
    drop(data);
    fs::remove_file(dir.path().join(DB).join("a")).expect("half removed");
    let data = DataDir::open(dir.path(), create(OURS)).expect("open");
    assert_eq!(engine_alone(&data), staged_files("new"));
}

#[test]
fn a_staged_directory_without_a_database_is_refused_and_untouched() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    let staged = stage(&data, "new");
    fs::remove_file(staged.join("CURRENT")).expect("remove");
    let before = snapshot(dir.path());
    let error = data.install_engine(&staged).expect_err("incomplete");
    assert!(matches!(error, StorageError::SnapshotDamaged { .. }), "{error}");
    data.install_engine(&data.snap_dir().join("absent")).expect_err("absent");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_damaged_pointer_is_refused_and_the_engines_are_untouched() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = DataDir::open(dir.path(), create(OURS)).expect("create");
    data.install_engine(&stage(&data, "new")).expect("install");
    drop(data);
    let before = snapshot(dir.path());
    let pointer = dir.path().join(engines::POINTER);
    let whole = fs::read(&pointer).expect("there");
    let mut damaged: Vec<Vec<u8>> = (0..whole.len() - 1).map(|length| whole[..length].to_vec()).collect();
    for bit in 0..(whole.len() - 1) * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        damaged.push(flipped);
    }
    for name in ["db.7", "db.01", "wal", "db.", "../db", ""] {
        damaged.push(text::encode("folkmoot engine", &[("directory", name.to_owned())]));
    }
    for bytes in damaged {
        fs::write(&pointer, &bytes).expect("write");
        let error = DataDir::open(dir.path(), create(OURS)).expect_err("damaged");
        assert!(matches!(error, StorageError::MetaDamaged { .. }), "{error}");
    }
    fs::write(&pointer, &whole).expect("write");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn engines_without_a_description_beside_them_are_refused_and_untouched() {
    for has_pointer in [false, true] {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = DataDir::open(dir.path(), create(OURS)).expect("create");
        data.install_engine(&stage(&data, "new")).expect("install");
        drop(data);
        fs::remove_file(dir.path().join(META)).expect("remove");
        if !has_pointer {
            fs::remove_file(dir.path().join(engines::POINTER)).expect("remove");
        }
        let before = snapshot(dir.path());
        let error = DataDir::open(dir.path(), create(OURS)).expect_err("lost");
        assert!(matches!(error, StorageError::MetaDamaged { .. }), "{error}");
        assert_eq!(snapshot(dir.path()), before);
    }
}

#[test]
fn only_names_that_it_gives_are_numbers_of_engines() {
    for name in ["db", "db.1", "db.18446744073709551615"] {
        assert_eq!(EngineNumber::from_name(name).expect(name).to_string(), name);
    }
    for name in ["db.0", "db.01", "db.+1", "db.-1", "db.", "db1", "DB", "db.18446744073709551616", "db.1.sst"]
    {
        assert_eq!(EngineNumber::from_name(name), None, "{name}");
    }
}

#[test]
fn the_number_of_a_start_grows_also_when_the_clock_goes_back() {
    let dir = tempfile::tempdir().expect("temp dir");
    let boot = |at_least| {
        let data = DataDir::open(dir.path(), create(OURS)).expect("open");
        data.next_boot(at_least).expect("boot")
    };
    assert_eq!([boot(100), boot(50), boot(0), boot(1000)], [100, 101, 102, 1000]);
    // Without what was written it is the clock's again.
    fs::write(dir.path().join(BOOT), "folkmoot boot\nboot 5\ncrc32c 0\n").expect("write");
    assert_eq!([boot(7), boot(7)], [7, 8]);
}
