//! A plan that nobody carries out, as it is printed for people and for programs.

use handover_core::compose::project::Project;
use handover_core::observation::{Container, Image, Network, Observation};
use handover_core::plan::{Plan, Request, plan};
use serde_json::json;

use super::{json as for_programs, plain};

/// One published service with a new image, and Redis as it is.
fn sample(web: &str) -> Plan {
    let document = format!(
        r#"{{"name":"demo","services":{{
          "web":{{"image":"web:2","networks":{{"default":null}},"ports":[{{"target":80,"published":"8080"}}]{web}}},
          "redis":{{"image":"redis:7","networks":{{"default":null}}}}}},
          "networks":{{"default":{{"name":"demo_default"}}}}}}"#
    );
    let project = Project::parse(&document, "", '-').expect("the project parses");
    let mut observed = Observation { architecture: "amd64".to_owned(), ..Observation::default() };
    observed.networks.insert("demo_default".to_owned(), Network { id: "n".to_owned(), ..Network::default() });
    for image in ["web:2", "redis:7"] {
        let image_id = format!("sha256:{}", "ab".repeat(32));
        observed.images.insert(image.to_owned(), Image { id: image_id, ..Image::default() });
    }
    let container = Container {
        name: "demo-web-1".to_owned(),
        project: "demo".to_owned(),
        service: "web".to_owned(),
        running: true,
        image_id: format!("sha256:{}", "cd".repeat(32)),
        ..Container::default()
    };
    observed.containers.push(container);
    plan(&project, &observed, &Request { services: vec!["web".to_owned()], ..Request::default() })
}

#[test]
fn people_read_the_services_and_then_the_order() {
    assert_eq!(
        plain::plan_in_order(&sample("")),
        [
            "plan for project demo",
            "  web  stand-in  image web:2 is abababababab and runs as cdcdcdcdcdcd",
            "  note: web runs twice while the stand-in serves",
            "in this order:",
            "   1  bring up a second copy, the stand-in: web",
            "   2  gate: wait until the stand-in is ready",
            "   3  redirect to the stand-in: port 8080 (web)",
            "   4  drain the old containers: web",
            "   5  stop the old containers: web",
            "   6  Compose recreates web",
            "   7  gate: wait until web is ready",
            "   8  give back to the real containers: port 8080 (web)",
            "   9  drain the stand-in",
            "  10  remove the stand-in: web",
        ]
    );
}

#[test]
fn programs_read_the_same_with_all_that_each_operation_touches() {
    let line = for_programs::plan(&sample(""));
    assert_eq!(line["services"][0]["action"], "stand-in");
    assert_eq!(line["refusals"], json!([]));
    let operations = line["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 10);
    let port = json!({"service": "web", "published": 8080, "address": null, "protocol": "tcp", "target": 80});
    assert_eq!(
        operations[2],
        json!({
            "number": 3, "operation": "redirect", "services": ["web"], "ports": [port],
            "words": "redirect to the stand-in: port 8080 (web)",
        })
    );
    assert_eq!(operations[4]["tiers"], json!([["web"]]));
    assert_eq!(operations[5]["actions"], json!({"web": "stand-in"}));
}

#[test]
fn a_refused_plan_does_nothing_and_tells_programs_why() {
    let refused = sample(r#","network_mode":"host""#);
    assert!(!plain::plan_in_order(&refused).contains(&"in this order:".to_owned()));
    let line = for_programs::plan(&refused);
    assert_eq!(line["operations"], json!([]));
    assert_eq!((&line["refusals"][0]["kind"], &line["refusals"][0]["service"]), (&json!("consent"), &json!("web")));
}
