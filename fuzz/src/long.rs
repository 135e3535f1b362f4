//! The long run: libFuzzer chooses the inputs by the code that they reach, and leaves one that does harm in `target/fuzz/found`.

use std::{
    ffi::{CString, c_char, c_int},
    path::Path,
    process,
    sync::OnceLock,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    corpus,
    mutate::{Shape, mutate},
    target::BYTES_MAX,
};

/// For how long, in seconds.
const SECONDS: &str = "SOCKPILOT_FUZZ_S";

type Callback = extern "C" fn(*const u8, usize) -> c_int;

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(count: *mut c_int, arguments: *mut *mut *mut c_char, test: Callback) -> c_int;
}

/// What is run. It is never dropped, because libFuzzer ends the process.
static CHECK: OnceLock<(Shape, Check)> = OnceLock::new();

struct Check(&'static dyn Fn(&[u8]));

// SAFETY: libFuzzer calls it on the thread on which the driver runs, and that is the one that it came from.
unsafe impl Send for Check {}
// SAFETY: as above.
unsafe impl Sync for Check {}

/// How long the run is to be; `None`: there is none.
pub fn seconds() -> Option<u64> {
    std::env::var(SECONDS).ok()?.parse().ok()
}

/// Runs, and ends the process.
pub fn run(name: &str, shape: Shape, seconds: u64, check: &dyn Fn(&[u8])) -> ! {
    // SAFETY: this function never returns, so what was lent to it lives as long as the process.
    let check: &'static dyn Fn(&[u8]) = unsafe { std::mem::transmute(check) };
    assert!(CHECK.set((shape, Check(check))).is_ok(), "one target for each process");
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        process::abort();
    }));
    let work = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    let [reached, found] = ["reached", "found"].map(|folder| work.join(folder).join(name));
    for folder in [&reached, &found] {
        std::fs::create_dir_all(folder).expect("a folder below target/");
    }
    let arguments = [
        "fuzz".to_owned(),
        format!("-max_total_time={seconds}"),
        format!("-max_len={BYTES_MAX}"),
        format!("-artifact_prefix={}/", found.display()),
        "-timeout=20".to_owned(),
        "-rss_limit_mb=4096".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
        reached.display().to_string(),
        corpus::folder(name).display().to_string(),
    ];
    let arguments = arguments.map(|argument| CString::new(argument).expect("no zero"));
    let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let (mut count, mut pointer) = (arguments.len() as c_int, pointers.as_mut_ptr());
    // SAFETY: as many arguments as are said, with a null after them, which live until the process ends.
    process::exit(unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut pointer, one) })
}

extern "C" fn one(bytes: *const u8, length: usize) -> c_int {
    let (_, Check(check)) = CHECK.get().expect("set before the driver runs");
    // SAFETY: libFuzzer's input, of which it says the length.
    check(if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(bytes, length) } });
    0
}

/// libFuzzer's own mutations, and ours, which know what messages and texts are made of.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerCustomMutator(bytes: *mut u8, length: usize, room: usize, seed: u32) -> usize {
    // SAFETY: libFuzzer's buffer, of which it says the room.
    let buffer = unsafe { std::slice::from_raw_parts_mut(bytes, room) };
    let mut random = StdRng::seed_from_u64(seed.into());
    if random.random() {
        return libfuzzer_sys::fuzzer_mutate(buffer, length, room);
    }
    let (shape, _) = CHECK.get().expect("set before the driver runs");
    let mut mutated = buffer[..length].to_vec();
    mutate(*shape, &mut mutated, room, &mut random);
    buffer[..mutated.len()].copy_from_slice(&mutated);
    mutated.len()
}

/// What libfuzzer-sys' own macro would define; its driver is not used.
#[unsafe(no_mangle)]
fn rust_fuzzer_test_input(_: &[u8]) -> i32 {
    0
}
