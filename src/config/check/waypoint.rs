//! Which gateway traffic passes: the labels `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace` of a service, a
//! workload, a service account or a namespace.
//!
//! What is addressed to a service passes the service's waypoint, else the namespace's; what is addressed to a workload the
//! workload's, else its service account's, else the namespace's. `none` ends the search. Which of both a waypoint is for
//! is its label `istio.io/waypoint-for`.

use std::collections::BTreeMap;

use crate::config::check::Context;
use crate::config::checked::{GatewayClass, Location, Mesh, WaypointFor};
use crate::config::place::{At, Place};
use crate::config::raw::File;
use crate::config::raw::mesh::Labels;
use crate::config::read::AnyText;
use crate::vocab::resource::ResourceName;

const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";

/// What a label says.
#[derive(Clone, Debug)]
enum Binding {
    /// `none`.
    Nothing,
    /// A gateway, as an index into `Mesh::gateways`, and where it is written.
    Gateway(usize, Place),
}

/// The bindings of namespaces and service accounts.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    namespaces: BTreeMap<String, Binding>,
    accounts: BTreeMap<ResourceName, Binding>,
}

impl Bindings {
    /// Every `[[namespace]]` and `[[serviceAccount]]`.
    pub(crate) fn new(files: &[File], mesh: &Mesh, cx: &mut Context<'_>) -> Self {
        let mut this = Self::default();
        for raw in files.iter().flat_map(|f| f.namespace.iter().flatten()) {
            cx.namespace(&raw.name);
            let name = &raw.name.value;
            if let Some(found) = binding(raw.labels.as_ref(), name, mesh, cx) {
                if let Binding::Gateway(at, place) = &found
                    && class(mesh, *at) == Some(GatewayClass::Ingress)
                {
                    cx.out
                        .error(place, "an ingress is no waypoint, expected another gateway");
                }
                this.namespaces.insert(name.clone(), found);
            }
        }
        for raw in files
            .iter()
            .flat_map(|f| f.service_account.iter().flatten())
        {
            let name = cx.resource(&raw.name, raw.namespace.as_ref());
            if let Some(found) = binding(raw.labels.as_ref(), &name.namespace, mesh, cx) {
                for_workloads(&found, mesh, cx);
                this.accounts.insert(name, found);
            }
        }
        this
    }

    /// The gateway that traffic to a service passes, as an index into `Mesh::gateways`.
    pub(crate) fn service(
        &self,
        labels: Option<&Labels>,
        location: Location,
        name: &ResourceName,
        mesh: &Mesh,
        cx: &mut Context<'_>,
    ) -> Option<usize> {
        let (class_wanted, wanted) = match location {
            Location::External => (GatewayClass::Egress, "ringgate-egress"),
            Location::Internal => (GatewayClass::Waypoint, "istio-waypoint"),
        };
        match binding(labels, &name.namespace, mesh, cx) {
            Some(Binding::Nothing) => None,
            Some(Binding::Gateway(at, place)) => {
                let gateway = mesh.gateways.get(at)?;
                if gateway.class != class_wanted {
                    let name = &gateway.name;
                    cx.out.error(
                        &place,
                        format!("gateway `{name}` is not of class `{wanted}`"),
                    );
                } else if !gateway.waypoint_for.service {
                    let name = &gateway.name;
                    cx.out.error(
                        &place,
                        format!(
                            "gateway `{name}` is not for services, by its label `{WAYPOINT_FOR}`"
                        ),
                    );
                }
                Some(at)
            }
            // A namespace's gateway is for those of its services that it fits.
            None => match self.namespaces.get(&name.namespace)? {
                Binding::Nothing => None,
                Binding::Gateway(at, _) => {
                    let gateway = mesh.gateways.get(*at)?;
                    let fits = gateway.class == class_wanted && gateway.waypoint_for.service;
                    fits.then_some(*at)
                }
            },
        }
    }

    /// The waypoint of what is addressed to a workload itself, as an index into `Mesh::gateways`.
    pub(crate) fn workload(
        &self,
        labels: Option<&Labels>,
        (name, account): (&ResourceName, &str),
        mesh: &Mesh,
        cx: &mut Context<'_>,
    ) -> Option<usize> {
        let own = binding(labels, &name.namespace, mesh, cx);
        if let Some(own) = &own {
            for_workloads(own, mesh, cx);
        }
        let account = ResourceName::new(&name.namespace, account);
        let found = own
            .as_ref()
            .or_else(|| self.accounts.get(&account))
            .or_else(|| self.namespaces.get(&name.namespace))?;
        match found {
            Binding::Nothing => None,
            Binding::Gateway(at, _) => {
                let gateway = mesh.gateways.get(*at)?;
                let fits = gateway.class == GatewayClass::Waypoint && gateway.waypoint_for.workload;
                fits.then_some(*at)
            }
        }
    }
}

/// A label that names a workload's waypoint must name one that is for workloads: otherwise it would do nothing.
fn for_workloads(found: &Binding, mesh: &Mesh, cx: &mut Context<'_>) {
    let Binding::Gateway(at, place) = found else {
        return;
    };
    let Some(gateway) = mesh.gateways.get(*at) else {
        return;
    };
    let name = &gateway.name;
    if gateway.class != GatewayClass::Waypoint {
        cx.out.error(
            place,
            format!("gateway `{name}` is not of class `istio-waypoint`"),
        );
    } else if !gateway.waypoint_for.workload {
        cx.out.error(
            place,
            format!(
                "gateway `{name}` is not for workloads, expected its label `{WAYPOINT_FOR}` to be `workload` or `all`"
            ),
        );
    }
}

fn class(mesh: &Mesh, at: usize) -> Option<GatewayClass> {
    mesh.gateways.get(at).map(|g| g.class)
}

/// What the labels of a resource say; `None` if nothing.
fn binding(
    labels: Option<&Labels>,
    namespace: &str,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<Binding> {
    let Some(written) = label(labels, USE_WAYPOINT) else {
        if let Some(at) = label(labels, USE_WAYPOINT_NAMESPACE) {
            cx.out.error(
                &at.place,
                format!("means nothing without the label `{USE_WAYPOINT}`"),
            );
        }
        return None;
    };
    if written.0 == "none" {
        return Some(Binding::Nothing);
    }
    let namespace = label(labels, USE_WAYPOINT_NAMESPACE).map_or(namespace, |at| &at.0);
    let gateway = ResourceName::new(namespace, &written.0);
    if !cx.exists("gateway", &gateway, &written.place) {
        return None;
    }
    let index = mesh.gateways.iter().position(|g| g.name == gateway)?;
    Some(Binding::Gateway(index, written.place.clone()))
}

fn label<'l>(labels: Option<&'l Labels>, key: &str) -> Option<&'l At<AnyText>> {
    let mut all = labels.into_iter().flat_map(|l| &l.0);
    all.find(|(k, _)| k.value == key).map(|(_, v)| v)
}

/// Label `istio.io/waypoint-for` of a gateway; services if absent, as in Istio.
pub(crate) fn waypoint_for(
    labels: Option<&Labels>,
    class: GatewayClass,
    cx: &mut Context<'_>,
) -> WaypointFor {
    let (service, workload) = match label(labels, WAYPOINT_FOR) {
        None => (true, false),
        Some(at) => match at.0.as_str() {
            "service" => (true, false),
            "workload" => (false, true),
            "all" => (true, true),
            "none" => (false, false),
            other => {
                let text = other.escape_debug();
                cx.out.error(
                    &at.place,
                    format!("`{text}` is not one of service, workload, all, none"),
                );
                (true, true)
            }
        },
    };
    // An egress gateway is for outside services, and they have no workloads.
    WaypointFor {
        service: service || class == GatewayClass::Egress,
        workload: workload && class == GatewayClass::Waypoint,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config;

    const GATEWAYS: [(&str, &str, &str); 4] = [
        ("svc", "istio-waypoint", ""),
        (
            "wl",
            "istio-waypoint",
            "labels = { \"istio.io/waypoint-for\" = \"workload\" }",
        ),
        (
            "all",
            "istio-waypoint",
            "labels = { \"istio.io/waypoint-for\" = \"all\" }",
        ),
        ("out", "ringgate-egress", ""),
    ];

    fn label(gateway: &str) -> String {
        if gateway.is_empty() {
            "labels = { app = \"a\" }".to_owned()
        } else {
            format!("labels = {{ app = \"a\", \"istio.io/use-waypoint\" = \"{gateway}\" }}")
        }
    }

    /// Waypoints by name of the service inside, the service outside and the workload; `None` if it is refused.
    fn bound(
        [namespace, account, workload, service]: [&str; 4],
    ) -> Option<[Option<&'static str>; 3]> {
        let mut text = "[authority]\n[mesh]\n".to_owned();
        for (nth, (name, class, labels)) in GATEWAYS.iter().enumerate() {
            text.push_str(&format!(
                "[[gateway]]\nname = \"{name}\"\ngatewayClassName = \"{class}\"\naddress = \"10.0.0.{}\"\n{labels}\n",
                nth + 1
            ));
        }
        let ports = "ports = [{ number = 80, name = \"http\", protocol = \"HTTP\" }]";
        text.push_str(&format!(
            "[[namespace]]\nname = \"default\"\n{}\n\
             [[serviceAccount]]\nname = \"a\"\n{}\n\
             [[workloadEntry]]\nname = \"a\"\nserviceAccount = \"a\"\naddress = \"10.0.1.1\"\n{}\n\
             [[serviceEntry]]\nname = \"in\"\nhosts = [\"in\"]\n{ports}\nlocation = \"MESH_INTERNAL\"\n\
             resolution = \"STATIC\"\nworkloadSelector.labels = {{ app = \"a\" }}\n{}\n\
             [[serviceEntry]]\nname = \"outside\"\nhosts = [\"outside\"]\n{ports}\nresolution = \"STATIC\"\n\
             endpoints = [{{ address = \"192.0.2.1\" }}]\n",
            label(namespace),
            label(account),
            label(workload),
            label(service),
        ));
        let config = config::parse(&[("m.toml".into(), text)], Path::new("")).ok()?;
        let mesh = &config.mesh;
        let name = |at: usize| GATEWAYS[at].0;
        Some([
            mesh.services[0].waypoint.map(name),
            mesh.services[1].waypoint.map(name),
            mesh.workloads[0].waypoint.map(name),
        ])
    }

    #[test]
    fn the_most_specific_label_that_fits_holds() {
        let none = None;
        for (labels, want) in [
            (["", "", "", ""], Some([none, none, none])),
            (["svc", "", "", ""], Some([Some("svc"), none, none])),
            (["wl", "", "", ""], Some([none, none, Some("wl")])),
            (["all", "", "", ""], Some([Some("all"), none, Some("all")])),
            (["out", "", "", ""], Some([none, Some("out"), none])),
            (
                ["all", "", "", "svc"],
                Some([Some("svc"), none, Some("all")]),
            ),
            (["all", "", "", "none"], Some([none, none, Some("all")])),
            (["all", "wl", "", ""], Some([Some("all"), none, Some("wl")])),
            (
                ["all", "wl", "all", ""],
                Some([Some("all"), none, Some("all")]),
            ),
            (["all", "wl", "none", ""], Some([Some("all"), none, none])),
            (["all", "none", "", ""], Some([Some("all"), none, none])),
            (["none", "", "", ""], Some([none, none, none])),
            // What a label names has to be for what bears it.
            (["", "svc", "", ""], None),
            (["", "", "svc", ""], None),
            (["", "", "out", ""], None),
            (["", "", "", "wl"], None),
            (["", "", "", "out"], None),
            (["nowhere", "", "", ""], None),
        ] {
            assert_eq!(bound(labels), want, "{labels:?}");
        }
    }
}
