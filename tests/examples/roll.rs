fn main() {
    let runs: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let t = std::time::Instant::now();
    println!("{:?}", sockpilot_tests::simulate::rollouts::harmless("careful", runs));
    println!("{:?}", t.elapsed());
    println!("{:?}", sockpilot_tests::simulate::rollouts::harmful("careful", runs, 2.0));
    println!("{:?}", t.elapsed());
}
