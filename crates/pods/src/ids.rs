//! Which uids and gids this process can give away: all, some, or its own alone. Spec: user_namespaces(7).

use serde_json::{Value, json};

/// The ids of the user namespace this process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSpace {
    /// The machine's own: every id is itself.
    Whole,
    /// A range below 0 to 2^32: others' files cannot be given to them, and some features of the kernel are refused.
    Some,
    /// 0, which is one user of the machine, and nothing else.
    One,
}

impl IdSpace {
    pub fn current() -> IdSpace {
        // Without /proc nothing of ours runs; if it were not there, the careful answer.
        std::fs::read_to_string("/proc/self/uid_map").map_or(IdSpace::Some, |map| IdSpace::of(&map))
    }

    /// From the text of `uid_map`: lines of inside, outside, count.
    fn of(map: &str) -> IdSpace {
        let rows: Vec<Vec<u64>> =
            map.lines().map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect()).collect();
        match rows.as_slice() {
            [row] if row[..] == [0, 0, u64::from(u32::MAX)] => IdSpace::Whole,
            [row] if row.last() == Some(&1) => IdSpace::One,
            _ => IdSpace::Some,
        }
    }

    /// A runtime spec's `process`, so that it asks for no id that is not there.
    pub fn fit_process(self, process: &mut Value) {
        if self == IdSpace::One {
            process["user"] = json!({"uid": 0, "gid": 0});
        }
    }

    /// A runtime spec's `mounts`: the owner of a mount must be there too.
    pub fn fit_mounts(self, spec: &mut Value) {
        if self != IdSpace::One {
            return;
        }
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option.as_str().is_none_or(|text| !text.starts_with("gid=")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_tells_all_from_some_from_one() {
        let rows = [
            ("         0          0 4294967295\n", IdSpace::Whole),
            ("         0       1000          1\n", IdSpace::One),
            ("         0       1000          1\n         1     100000      65536\n", IdSpace::Some),
            ("         0     100000      65536\n", IdSpace::Some),
            ("", IdSpace::Some),
        ];
        for (map, expected) in rows {
            assert_eq!(IdSpace::of(map), expected, "{map:?}");
        }
    }

    #[test]
    fn with_one_id_everybody_is_user_0_and_no_mount_is_of_a_group() {
        let process = json!({"user": {"uid": 101, "gid": 101, "additionalGids": [5]}, "args": ["x"]});
        let spec =
            json!({"mounts": [{"destination": "/dev/pts", "options": ["mode=0620", "gid=5"]}, {"destination": "/x"}]});
        let (mut one, mut one_spec) = (process.clone(), spec.clone());
        IdSpace::One.fit_process(&mut one);
        IdSpace::One.fit_mounts(&mut one_spec);
        assert_eq!(one, json!({"user": {"uid": 0, "gid": 0}, "args": ["x"]}));
        assert_eq!(one_spec["mounts"][0]["options"], json!(["mode=0620"]));
        for space in [IdSpace::Some, IdSpace::Whole] {
            let (mut same, mut same_spec) = (process.clone(), spec.clone());
            space.fit_process(&mut same);
            space.fit_mounts(&mut same_spec);
            assert_eq!((same, same_spec), (process.clone(), spec.clone()));
        }
    }
}
