//! Which CUDA an image needs and which a driver has: told before a program says that its driver "is insufficient".
//!
//! Programs built with one release of CUDA run with every driver of that major release. What an image demands beyond that
//! stands in `NVIDIA_REQUIRE_CUDA`, in the vendor's small language: conditions joined by `,` must all hold, those joined
//! by spaces are alternatives.

use crate::elf::Version;
use crate::record::Contents;

/// The first driver of each CUDA release, by the driver's major number.
const RELEASES: &[(u32, [u32; 2])] = &[
    (384, [9, 0]),
    (390, [9, 1]),
    (396, [9, 2]),
    (410, [10, 0]),
    (418, [10, 1]),
    (440, [10, 2]),
    (450, [11, 0]),
    (455, [11, 1]),
    (460, [11, 2]),
    (465, [11, 3]),
    (470, [11, 4]),
    (495, [11, 5]),
    (510, [11, 6]),
    (515, [11, 7]),
    (520, [11, 8]),
    (525, [12, 0]),
    (530, [12, 1]),
    (535, [12, 2]),
    (545, [12, 3]),
    (550, [12, 4]),
    (555, [12, 5]),
    (560, [12, 6]),
    (565, [12, 7]),
    (570, [12, 8]),
    (575, [12, 9]),
    (580, [13, 0]),
    (590, [13, 1]),
];

/// What will fail, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub what: String,
    pub hint: String,
}

/// The CUDA release that a driver brings.
pub fn release_of(driver: &Version) -> Option<Version> {
    let mut older = RELEASES.iter().rev();
    let (_, release) = older.find(|(first, _)| *first <= driver.major())?;
    Some(Version(release.to_vec()))
}

/// The oldest driver that runs programs of a CUDA release: from 11 on the first of the major release.
fn oldest_driver(cuda: &Version) -> Option<u32> {
    let wanted = match cuda.major() {
        11.. => vec![cuda.major(), 0],
        _ => cuda.0.iter().take(2).copied().collect(),
    };
    let mut releases = RELEASES.iter();
    releases
        .find(|(_, release)| release.to_vec() >= wanted)
        .map(|(first, _)| *first)
}

/// Whether an image's programs will find this driver too old.
pub fn mismatch(
    driver: &Version,
    contents: &Contents,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<Mismatch> {
    let of = |name: &'static str| {
        let libraries = contents.gpu.iter().filter(move |one| one.name == name);
        libraries.filter_map(|library| Version::parse(&library.version))
    };
    // Compatibility libraries of the image, newer than the driver, are used in its place.
    let compatible = of("cuda-compat").any(|version| version.major() > driver.major());
    if compatible {
        return None;
    }
    let has = release_of(driver)?;
    let hint = |first: u32| {
        format!(
            "choose nodes with driver {first} or newer, or an image built for CUDA {has} or older"
        )
    };
    // Of several runtimes the oldest may be the one that is used.
    if let Some(cuda) = of("cuda").min()
        && let Some(first) = oldest_driver(&cuda)
        && driver.major() < first
    {
        return Some(Mismatch {
            what: format!(
                "the image's CUDA {cuda} needs driver {first} or newer, the node has {driver}"
            ),
            hint: hint(first),
        });
    }
    let off = variable("NVIDIA_DISABLE_REQUIRE")
        .is_some_and(|value| matches!(value.as_str(), "1" | "true"));
    let demand =
        variable("NVIDIA_REQUIRE_CUDA").filter(|demand| !off && !demand.trim().is_empty())?;
    if holds(&demand, driver, &has) {
        return None;
    }
    let cuda = demand
        .split([' ', ','])
        .find_map(|condition| Version::parse(condition.strip_prefix("cuda>=")?));
    let first = cuda
        .and_then(|cuda| {
            RELEASES
                .iter()
                .find(|(_, release)| release.to_vec() >= cuda.0)
        })
        .map_or(driver.major() + 1, |(first, _)| *first);
    Some(Mismatch {
        what: format!("the image demands `{demand}`; the node's driver {driver} has CUDA {has}"),
        hint: format!(
            "{}; `NVIDIA_DISABLE_REQUIRE=1` under [container.env] tries it nevertheless",
            hint(first)
        ),
    })
}

/// Whether a demand is met. What is not a version (brands of GPUs) is taken to be so.
fn holds(demand: &str, driver: &Version, cuda: &Version) -> bool {
    let condition = |text: &str| {
        let place = text.find(['<', '>', '=', '!']);
        let (name, rest) = text.split_at(place.unwrap_or(text.len()));
        let ours = match name {
            "cuda" => cuda,
            "driver" => driver,
            _ => return true,
        };
        let number = rest.trim_start_matches(['<', '>', '=', '!']);
        let operator = rest.strip_suffix(number).unwrap_or_default();
        let Some(wanted) = Version::parse(number) else {
            return true;
        };
        // `driver<471` means all of 470.
        let ours = Version(ours.0.iter().take(wanted.0.len()).copied().collect());
        match operator {
            ">=" => ours >= wanted,
            "<=" => ours <= wanted,
            ">" => ours > wanted,
            "<" => ours < wanted,
            "=" | "==" => ours == wanted,
            "!=" => ours != wanted,
            _ => true,
        }
    };
    demand
        .split_whitespace()
        .any(|alternative| alternative.split(',').all(condition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Library;

    fn contents(cuda: &[&str], compat: &str) -> Contents {
        let library = |name: &str, version: &str| Library {
            name: name.into(),
            version: version.into(),
            ..Library::default()
        };
        let mut gpu: Vec<Library> = cuda
            .iter()
            .map(|version| library("cuda", version))
            .collect();
        if !compat.is_empty() {
            gpu.push(library("cuda-compat", compat));
        }
        Contents {
            gpu,
            ..Contents::default()
        }
    }

    #[test]
    fn pairs_of_driver_and_image() {
        const TESLA: &str =
            "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=525,driver<526";
        for (driver, cuda, compat, demand, part) in [
            ("550.54.15", &["12.4.127"][..], "", "", ""),
            // Every driver of the major release runs it.
            ("525.60.13", &["12.4.127"], "", "", ""),
            ("470.82", &["11.8.89"], "", "", ""),
            ("470.82", &["12.4.127"], "", "", "needs driver 525"),
            ("470.82", &["12.4.127"], "550.54.15", "", ""),
            ("470.82", &["11.8", "12.4"], "", "", ""),
            ("535.104", &["13.0.48"], "", "", "needs driver 580"),
            ("410.48", &["10.1"], "", "", "needs driver 418"),
            ("550.54", &[], "", "cuda>=12.4", ""),
            ("535.104", &[], "", "cuda>=12.4", "has CUDA 12.2"),
            ("535.104", &[], "", TESLA, "demands"),
            ("525.60", &[], "", TESLA, ""),
            ("470.82", &[], "", TESLA, ""),
            ("535.104", &[], "", "brand=tesla", ""),
            ("535.104", &[], "", "nonsense>>x", ""),
            ("300.1", &["12.0"], "", "", ""),
        ] {
            let variable = |name: &str| (name == "NVIDIA_REQUIRE_CUDA").then(|| demand.to_string());
            let driver = Version::parse(driver).unwrap();
            let found = mismatch(&driver, &contents(cuda, compat), &variable);
            let what = found.map(|found| found.what).unwrap_or_default();
            assert!(
                what.contains(part) && part.is_empty() == what.is_empty(),
                "{driver} {cuda:?}: {what}"
            );
        }
        let off = |name: &str| {
            Some(
                if name == "NVIDIA_DISABLE_REQUIRE" {
                    "1"
                } else {
                    "cuda>=99"
                }
                .to_string(),
            )
        };
        let driver = Version::parse("550").unwrap();
        assert_eq!(mismatch(&driver, &contents(&[], ""), &off), None);
    }
}
