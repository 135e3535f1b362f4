//! x
pub mod random;
pub mod simulate;
fn main() {
    let n: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let t = std::time::Instant::now();
    macro_rules! p {
        ($e:expr) => {
            let v = $e;
            eprintln!("{} {:?} {:?}", stringify!($e), v, t.elapsed());
        };
    }
    p!(simulate::aa(n));
    p!(simulate::counts(2 * n));
    p!(simulate::coverage(n * 6 / 10));
    p!(simulate::power_error(2 * n));
    p!(simulate::delayed(n * 3 / 10));
    p!(simulate::node_assigned(n * 6 / 10));
    p!(simulate::switchback(2 * n));
}
