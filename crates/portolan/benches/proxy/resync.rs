//! Nothing changed: how many transactions the kernel has counted when the same is asked for again.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portolan_ingest::Object;
use portolan_kernel::nft::Nft;

use crate::goals::{Asked, Goals};
use crate::load::Mine;
use crate::place::Place;
use crate::stats::{Report, millis, three_digits};
use crate::world::{CLUSTER_CIDR, SERVICE_CIDR, Size};
use crate::{Outcome, progress};

/// Of one size.
pub struct Resync {
    size: Size,
    /// Transactions while all objects were told again, and while a restart compared everything.
    again: u32,
    restart: u32,
    told_again: Duration,
    compared: Duration,
    /// Steps that the restart would have to write.
    steps: usize,
}

impl Resync {
    /// Tells every object again, then reads the kernel back as a restarted process does.
    pub fn of(mine: &mut Mine) -> Outcome<Self> {
        progress(&format!("ours, {}, told again and restarted", mine.size));
        let objects = mine.size.objects()?;
        let first = mine.ours.generation()?;
        let told = mine.ours.program(objects)?;
        let second = mine.ours.generation()?;
        let (repair, compared) = mine.ours.restart()?;
        let third = mine.ours.generation()?;
        Ok(Self {
            size: mine.size,
            again: second - first,
            restart: third - second,
            told_again: told.whole,
            compared,
            steps: repair.transaction.steps().len(),
        })
    }

    pub fn goals(&self, goals: &mut Goals) {
        let none = Asked::at_most("", "0", 0.0, None);
        goals.add(&format!("resync with nothing changed, {}: transactions", self.size), none, f64::from(self.again));
        let written = f64::from(self.restart) + self.steps as f64;
        goals.add(
            &format!("restart over a right kernel, {}: transactions, and steps planned", self.size),
            none,
            written,
        );
    }

    pub fn say(&self, report: &mut Report) {
        report.line(&format!(
            "\nNothing changed, {}: all objects told again took {} ms, a plan from scratch compared with all that the kernel \
             holds {} ms; the kernel counted {} transactions.",
            self.size,
            three_digits(millis(self.told_again)),
            three_digits(millis(self.compared)),
            self.again + self.restart,
        ));
    }
}

/// `portolan proxy --once`, run twice over the same objects in one namespace.
pub struct Program {
    mode: &'static str,
    size: Size,
    /// Transactions of nf_tables that the first run and the second one made.
    made: [u32; 2],
}

impl Program {
    pub fn of(exe: &Path, bin: &Path, mode: &'static str, size: Size) -> Outcome<Self> {
        progress(&format!("portolan proxy --once, {size}, {mode} mode, twice"));
        let dir = tempfile::Builder::new().prefix("ptl-t-bench-").tempdir()?;
        std::fs::write(dir.path().join("objects.yaml"), documents(size)?)?;
        let mut command = Command::new(exe);
        command.args(["proxy", "--once", "--node", "node-1", "--proxy-mode", mode, "-f"]).arg(dir.path());
        command.args(["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", SERVICE_CIDR]);
        command.env("PORTOLAN_IPTABLES_DIR", bin);
        let place = Place::new()?;
        let mut run = || -> Outcome<u32> {
            place.on_node(|| {
                let before = Nft::open()?.generation()?;
                let out = command.output()?;
                match out.status.success() {
                    true => Ok(Nft::open()?.generation()? - before),
                    false => Err(format!("portolan proxy: {}", String::from_utf8_lossy(&out.stderr).trim()).into()),
                }
            })
        };
        let made = [run()?, run()?];
        match made[0] {
            0 => Err(format!("portolan proxy in {mode} mode wrote nothing into an empty namespace").into()),
            _ => Ok(Self { mode, size, made }),
        }
    }

    pub fn goals(&self, goals: &mut Goals) {
        let what =
            format!("`portolan proxy` run again over its own rules, {}, {} mode: transactions", self.size, self.mode);
        goals.add(&what, Asked::at_most("", "0", 0.0, None), f64::from(self.made[1]));
    }

    pub fn say(&self, report: &mut Report) {
        let [first, again] = self.made;
        report.line(&format!(
            "\n`portolan proxy --once`, {}, {} mode: {first} transactions into an empty namespace, {again} when run again.",
            self.size, self.mode,
        ));
    }
}

/// The objects as one file; JSON is YAML too.
fn documents(size: Size) -> Outcome<String> {
    let mut text = String::new();
    for object in size.objects()? {
        let json = match &object {
            Object::Node(node) => serde_json::to_string(node)?,
            Object::Service(service) => serde_json::to_string(service)?,
            Object::EndpointSlice(slice) => serde_json::to_string(slice)?,
            other => return Err(format!("{} is not of the bench's world", other.reference()).into()),
        };
        writeln!(text, "---\n{json}")?;
    }
    Ok(text)
}
