//! The bundles of a request: what the site wrote down for its fabric, laid over the profile's rules.

use super::environment::Addition;
use super::mounts::MountSpec;
use super::profile::Profile;
use super::request::Request;
use crate::config::{Bundle, Config, nearest};
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::path::PathBuf;

/// Whether the host's MPI is wanted, and where the site says that it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    pub wanted: bool,
    pub directories: Vec<PathBuf>,
}

/// The bundles that were asked for, in order.
fn chosen<'a>(config: &'a Config, request: &'a Request) -> Result<Vec<(&'a str, &'a Bundle)>> {
    let mut found: Vec<(&str, &Bundle)> = Vec::new();
    for name in &request.bundles {
        let Some(bundle) = config.bundle.get(name) else {
            let known = || config.bundle.keys().map(String::as_str);
            let error = Error::usage(format!("unknown bundle `{name}`"));
            return Err(match nearest(name, known()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None if config.bundle.is_empty() => {
                    error.hint("the site file has none (`[bundle.NAME]`)")
                }
                None => error.hint(format!("known: {}", known().collect::<Vec<_>>().join(", "))),
            });
        };
        for (other, earlier) in &found {
            if bundle.conflicts.iter().any(|one| one == other)
                || earlier.conflicts.iter().any(|one| one == name)
            {
                return Err(Error::usage(format!(
                    "the bundles `{other}` and `{name}` cannot be taken together"
                ))
                .hint("the site file says so (`conflicts`); leave one of them out"));
            }
        }
        if !found.iter().any(|(known, _)| known == name) {
            found.push((name, bundle));
        }
    }
    Ok(found)
}

/// Lays the bundles over the profile.
pub fn apply(profile: &mut Profile, config: &Config, request: &Request) -> Result<Injection> {
    let bundles = chosen(config, request)?;
    let mut injection = Injection {
        wanted: request.mpi_inject == Some(true),
        directories: Vec::new(),
    };
    // A user's own settings can describe bundles, too; where mounts are the site's, only the site's count.
    let sites = config.fixed.iter().any(|key| key == "bundle");
    let open = profile.user_binds && profile.user_bind_paths.is_empty();
    if !open && (injection.wanted || (!bundles.is_empty() && !sites)) {
        return Err(Error::usage(format!(
            "libraries and bundles of the host are not allowed in the profile `{}`",
            profile.name
        ))
        .cause("it leaves mounts to the site (`user_binds`)")
        .hint("a site that describes bundles for it adds `bundle` to `final`"));
    }
    for (name, bundle) in bundles {
        let wrong = |error: Error| error.while_doing(format!("cannot use the bundle `{name}`"));
        for word in &bundle.binds {
            let spec = MountSpec::parse(OsStr::new(word)).map_err(wrong)?;
            profile.binds.push(spec);
        }
        let pairs = |table: &std::collections::BTreeMap<String, String>| -> Vec<(_, _)> {
            let pairs = table.iter();
            pairs.map(|(k, v)| (k.into(), v.into())).collect()
        };
        let additions = &mut profile.additions;
        additions.extend(
            pairs(&bundle.env)
                .into_iter()
                .map(|(k, v)| Addition::Set(k, v)),
        );
        additions.extend(
            pairs(&bundle.env_prepend)
                .into_iter()
                .map(|(k, v)| Addition::Prepend(k, v)),
        );
        additions.extend(
            pairs(&bundle.env_append)
                .into_iter()
                .map(|(k, v)| Addition::Append(k, v)),
        );
        injection
            .directories
            .extend(bundle.libraries.iter().map(PathBuf::from));
        match bundle.mpi_inject.as_str() {
            "" | "none" => {}
            "host" => injection.wanted = request.mpi_inject != Some(false),
            other => {
                return Err(wrong(Error::usage(format!(
                    "`{other}` is not a value for `mpi_inject`"
                )))
                .hint("write `host` or `none`"));
            }
        }
    }
    Ok(injection)
}

#[cfg(test)]
mod tests {
    use super::super::options::apply as set;
    use super::super::request::Origin;
    use super::*;

    const SITE: &str = "[bundle.slingshot]\nhelp = \"fast\"\nbinds = [\"/opt/cray:/opt/cray:ro\"]\nmpi_inject = \"host\"\n\
        libraries = [\"/opt/cray/lib\"]\nconflicts = [\"verbs\"]\nenv = { FI_PROVIDER = \"cxi\" }\n\
        env_prepend = { PATH = \"/opt/cray/bin\" }\n[bundle.verbs]\n[bundle.broken]\nmpi_inject = \"maybe\"\n";

    fn run(site: &str, pairs: &[(&str, &str)]) -> Result<(Profile, Injection)> {
        let config = Config::parse(site).unwrap();
        let mut request = Request::default();
        let pairs = pairs.iter().map(|(name, value)| (*name, value.into()));
        set(&mut request, &Origin::Flag, pairs)?;
        let mut profile = Profile::choose(&config, &request)?;
        let injection = apply(&mut profile, &config, &request)?;
        Ok((profile, injection))
    }

    #[test]
    fn binds_variables_and_injection() {
        let (profile, injection) = run(SITE, &[("bundle", "slingshot")]).unwrap();
        assert!(injection.wanted);
        assert_eq!(injection.directories, [PathBuf::from("/opt/cray/lib")]);
        assert_eq!(profile.binds.len(), 1);
        assert_eq!(profile.additions.len(), 2);
        let (profile, injection) = run(SITE, &[]).unwrap();
        assert!(!injection.wanted && profile.binds.is_empty());
        assert!(run("", &[("mpi-inject", "host")]).unwrap().1.wanted);
        let off = [("bundle", "slingshot"), ("mpi-inject", "none")];
        assert!(!run(SITE, &off).unwrap().1.wanted);
    }

    #[test]
    fn what_is_refused() {
        let shut = format!("{SITE}[profile.hpc]\nuser_binds = false\n");
        let sites = format!("final = [\"bundle\"]\n{shut}");
        for (site, pairs, part) in [
            (
                SITE,
                &[("bundle", "slingshit")][..],
                "did you mean `slingshot`?",
            ),
            (
                SITE,
                &[("bundle", "slingshot"), ("bundle", "verbs")],
                "cannot be taken together",
            ),
            (
                SITE,
                &[("bundle", "verbs"), ("bundle", "slingshot")],
                "cannot be taken together",
            ),
            (SITE, &[("bundle", "broken")], "`maybe`"),
            (SITE, &[("mpi-inject", "maybe")], "mpi-inject"),
            ("", &[("bundle", "x")], "the site file has none"),
            (&shut, &[("bundle", "verbs")], "not allowed"),
            (&shut, &[("mpi-inject", "host")], "not allowed"),
            (&sites, &[("mpi-inject", "host")], "not allowed"),
        ] {
            let error = run(site, pairs).unwrap_err().to_string();
            assert!(error.contains(part), "{pairs:?}: {error}");
        }
        assert!(run(&sites, &[("bundle", "slingshot")]).is_ok());
    }
}
