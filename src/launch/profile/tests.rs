use super::*;
use crate::launch::options::apply;
use crate::launch::request::Origin;

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

fn request(pairs: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    let pairs = pairs.iter().map(|(name, value)| (*name, value.into()));
    apply(&mut request, &Origin::Flag, pairs).unwrap();
    request
}

#[test]
fn site_changes_and_new_profiles() {
    let config = config(
        "[profile.hpc]\ntmp = \"private\"\nbinds = [\"/work\"]\n\
         [profile.ml]\nbase = \"hpc\"\ngpu = \"all\"\n[profile.round]\nbase = \"robin\"\n\
         [profile.robin]\nbase = \"round\"\n[profile.broken]\nid = \"ds\"\n",
    );
    let get = |name: &str| Profile::choose(&config, &request(&[("profile", name)]));
    let ml = get("ml").unwrap();
    assert_eq!(
        (ml.tmp, ml.gpu, ml.binds.len(), ml.home),
        (Tmp::Private, Gpu::All, 1, true)
    );
    let ces = get("ces").unwrap();
    assert_eq!(
        (ces.id, ces.network, ces.home),
        (IdChoice::Image, NetworkChoice::None, false)
    );
    for (name, part) in [
        ("mll", "did you mean `ml`?"),
        ("round", "is based on itself"),
        ("broken", "cannot appear as `ds`"),
    ] {
        let text = get(name).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_the_site_fixed_cannot_be_asked_for() {
    let plain = "";
    let fixed = "final = [\"profile.hpc.network\"]\n[profile.hpc]\nnetwork = \"none\"\n";
    let section = "final = [\"profile\"]\n";
    let deny = "[profile.hpc]\ndeny = [\"device\"]\n";
    let shut = "[profile.hpc]\nuser_binds = false\n";
    let own = "[profile.hpc]\nbundles = [\"fast\"]\nmpi_inject = \"host\"\n\
        locked = [\"bundles\", \"mpi_inject\"]\n[bundle.fast]\n[bundle.slow]\n";
    let one = "[launch]\nchoose_profile = false\n";
    for (site, pairs, refused) in [
        (plain, &[("network", "host")][..], false),
        (fixed, &[("network", "host")], true),
        (fixed, &[("unshare", "net")], false),
        (fixed, &[("tmp", "private")], false),
        (section, &[("tmp", "private")], true),
        (section, &[("workdir", "/x")], false),
        (deny, &[("device", "/dev/x")], true),
        (shut, &[("bind", "/x")], true),
        (shut, &[("mount", "type=tmpfs,dst=/x")], true),
        (shut, &[], false),
        (own, &[("bundle", "fast")], false),
        (own, &[("bundle", "slow")], true),
        (own, &[("mpi-inject", "host")], false),
        (own, &[("mpi-inject", "none")], true),
        (one, &[("profile", "ces")], true),
        (one, &[("profile", "hpc")], false),
    ] {
        let (config, request) = (config(site), request(pairs));
        let result =
            Profile::choose(&config, &request).and_then(|profile| profile.check(&config, &request));
        assert_eq!(result.is_err(), refused, "{site} {pairs:?}");
    }
}

#[test]
fn a_key_is_covered_by_its_sections_only() {
    assert!(covers("profile", "profile.hpc.id"));
    assert!(covers("profile.hpc", "profile.hpc.id"));
    assert!(covers("profile.hpc.id", "profile.hpc.id"));
    assert!(!covers("profile.h", "profile.hpc.id"));
}
