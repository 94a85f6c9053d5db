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
    /// Whether the caller's own library path is searched. Not where mounts are the site's: what is found is mounted.
    pub callers_path: bool,
    pub directories: Vec<PathBuf>,
}

/// The profile's bundles and those that were asked for, in order.
fn chosen<'a>(
    profile: &Profile,
    config: &'a Config,
    request: &'a Request,
) -> Result<Vec<(&'a str, &'a Bundle)>> {
    let mut found: Vec<(&str, &Bundle)> = Vec::new();
    for name in profile.bundles.iter().chain(&request.bundles) {
        let Some((name, bundle)) = config.bundle.get_key_value(name) else {
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
    let bundles = chosen(profile, config, request)?;
    let said = request.mpi_inject.or(profile.mpi_inject);
    let rules_own = profile.mpi_inject == Some(true);
    // A user's own settings can describe bundles, too; where mounts are the site's, only the site's count.
    let sites = config.fixed.iter().any(|key| key == "bundle");
    let open = profile.user_binds && profile.user_bind_paths.is_empty();
    let mut injection = Injection {
        wanted: said == Some(true),
        callers_path: open,
        directories: Vec::new(),
    };
    if !open && ((injection.wanted && !rules_own) || (!bundles.is_empty() && !sites)) {
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
            "host" => injection.wanted = said != Some(false),
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
    fn rules_of_a_profile() {
        let rules = |text: &str| format!("{SITE}[profile.hpc]\n{text}\n");
        let all = rules("bundles = [\"slingshot\"]");
        let never = rules("bundles = [\"slingshot\"]\nmpi_inject = \"none\"");
        let host = rules("mpi_inject = \"host\"");
        let shut = rules("mpi_inject = \"host\"\nuser_binds = false");
        for (site, pairs, binds, wanted) in [
            (&all, &[][..], 1, true),
            (&all, &[("bundle", "slingshot")], 1, true),
            (&all, &[("mpi-inject", "none")], 1, false),
            (&never, &[], 1, false),
            (&never, &[("mpi-inject", "host")], 1, true),
            (&host, &[], 0, true),
            (&host, &[("mpi-inject", "none")], 0, false),
            (&host, &[("bundle", "slingshot")], 1, true),
            // The site's own rule is no mount of the user's.
            (&shut, &[], 0, true),
            (&shut, &[("mpi-inject", "host")], 0, true),
        ] {
            let (profile, injection) = run(site, pairs).unwrap();
            let found = (profile.binds.len(), injection.wanted);
            assert_eq!(found, (binds, wanted), "{site} {pairs:?}");
            assert_eq!(injection.callers_path, !site.contains("user_binds"));
        }
        for (text, pairs, part) in [
            ("bundles = [\"slingshit\"]", &[][..], "did you mean"),
            (
                "bundles = [\"slingshot\"]",
                &[("bundle", "verbs")],
                "cannot be taken together",
            ),
            ("mpi_inject = \"guest\"", &[], "one of: host, none"),
            (
                "bundles = [\"slingshot\"]\nuser_binds = false",
                &[],
                "adds `bundle` to `final`",
            ),
        ] {
            let error = run(&rules(text), pairs).unwrap_err().to_string();
            assert!(error.contains(part), "{text} {pairs:?}: {error}");
        }
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
