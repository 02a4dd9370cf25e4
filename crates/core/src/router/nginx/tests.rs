use super::*;

fn members(all: &[(&str, u8)]) -> Vec<Member> {
    all.iter().map(|(name, last)| Member { name: (*name).into(), address: [172, 18, 0, *last].into() }).collect()
}

fn names() -> Names {
    Names {
        of_all: vec!["php-fpm".into(), "app".into()],
        of_one: (1..=3).map(|number| format!("docker_php-fpm_{number}")).collect(),
        at: [([172, 18, 0, 3].into(), "docker_php-fpm_1".to_owned())].into(),
    }
}

fn told(text: &str, all: &[(&str, u8)], by: CallBy) -> Result<String, RouterError> {
    let names = names();
    render(text, &Block { upstream: "backend", port: None, names: &names }, &members(all), by)
}

const ONE: [(&str, u8); 1] = [("docker_php-fpm_1", 7)];
const TWO: [(&str, u8); 2] = [("docker_php-fpm_1", 7), ("docker_php-fpm_2", 8)];

#[track_caller]
fn check(text: &str, all: &[(&str, u8)], by: CallBy, expected: &str) {
    assert_eq!(told(text, all, by).expect("it can be told"), expected);
}

#[track_caller]
fn unchanged_by_name(text: &str) {
    check(text, &ONE, CallBy::Name, text);
}

#[test]
fn what_names_its_container_already_stays_as_it_is() {
    unchanged_by_name("upstream backend {\n    server docker_php-fpm_1:9000;\n}\n");
}

#[test]
fn by_address_only_the_host_changes_and_tells_whose_it_is() {
    check(
        "# before\nupstream backend {\n    server docker_php-fpm_1:9000 weight=2 max_fails=3; # ours\n    keepalive 8;\n}\n",
        &ONE,
        CallBy::Address,
        "# before\nupstream backend {\n    server 172.18.0.7:9000 weight=2 max_fails=3; # handover: docker_php-fpm_1 # ours\n    keepalive 8;\n}\n",
    );
    check(
        "upstream backend { server docker_php-fpm_1:9000; keepalive 8; }",
        &ONE,
        CallBy::Address,
        "upstream backend { server 172.18.0.7:9000; # handover: docker_php-fpm_1\n keepalive 8; }",
    );
}

#[test]
fn what_an_interrupted_run_has_left_is_named_again() {
    let left = told("upstream backend {\n  server docker_php-fpm_1:9000;\n}\n", &ONE, CallBy::Address).unwrap();
    check(&left, &[("docker_php-fpm_1", 9)], CallBy::Name, "upstream backend {\n  server docker_php-fpm_1:9000;\n}\n");
    check(
        &left,
        &[("docker_php-fpm_1", 9)],
        CallBy::Address,
        "upstream backend {\n  server 172.18.0.9:9000; # handover: docker_php-fpm_1\n}\n",
    );
}

#[test]
fn an_address_that_a_script_has_written_becomes_a_name() {
    check(
        "upstream backend {\n    server 172.18.0.3:9000;\n}\n",
        &ONE,
        CallBy::Name,
        "upstream backend {\n    server docker_php-fpm_1:9000;\n}\n",
    );
}

#[test]
fn a_line_for_the_whole_service_stays_and_is_spelled_out_by_address() {
    let text = "upstream backend {\n    server php-fpm:9000 fail_timeout=1s;\n    server app:9000;\n}\n";
    check(text, &TWO, CallBy::Name, text);
    check(
        text,
        &TWO,
        CallBy::Address,
        "upstream backend {\n    server 172.18.0.7:9000 fail_timeout=1s; # handover: docker_php-fpm_1\n    server 172.18.0.8:9000 fail_timeout=1s; # handover: docker_php-fpm_2\n}\n",
    );
}

#[test]
fn more_containers_get_lines_like_the_others_and_fewer_lose_theirs() {
    let one = "upstream backend {\n\tserver docker_php-fpm_1:9000 weight=2; # first\n\tkeepalive 4;\n}\n";
    let two = "upstream backend {\n\tserver docker_php-fpm_1:9000 weight=2; # first\n\tserver docker_php-fpm_2:9000 weight=2;\n\tkeepalive 4;\n}\n";
    check(one, &TWO, CallBy::Name, two);
    check(two, &ONE, CallBy::Name, one);
    check(
        one,
        &TWO,
        CallBy::Address,
        "upstream backend {\n\tserver 172.18.0.7:9000 weight=2; # handover: docker_php-fpm_1 # first\n\tserver 172.18.0.8:9000 weight=2; # handover: docker_php-fpm_2\n\tkeepalive 4;\n}\n",
    );
}

#[test]
fn a_new_line_is_no_backup_and_not_down() {
    check(
        "upstream backend {\n  server docker_php-fpm_2:9000 backup;\n  server docker_php-fpm_1:9000 weight=5;\n}\n",
        &[("docker_php-fpm_1", 7), ("docker_php-fpm_2", 8), ("docker_php-fpm_3", 9)],
        CallBy::Name,
        "upstream backend {\n  server docker_php-fpm_2:9000 backup;\n  server docker_php-fpm_1:9000 weight=5;\n  server docker_php-fpm_3:9000 weight=5;\n}\n",
    );
}

#[test]
fn servers_of_others_and_other_upstreams_are_left_alone() {
    let text = "upstream other { server docker_php-fpm_1:9000; }\nupstream backend {\n  server legacy:9000 down;\n  server unix:/run/fpm.sock backup;\n  server 10.0.0.9:9000;\n  server docker_php-fpm_1:9000;\n}\n";
    let expected =
        text.replace("  server docker_php-fpm_1:9000;\n}", "  server 172.18.0.7:9000; # handover: docker_php-fpm_1\n}");
    check(text, &ONE, CallBy::Address, &expected);
}

#[test]
fn several_ports_of_one_container_are_several_lines() {
    let text = "upstream backend {\n  server docker_php-fpm_1:9000;\n  server docker_php-fpm_1:9001;\n}\n";
    check(
        text,
        &TWO,
        CallBy::Name,
        "upstream backend {\n  server docker_php-fpm_1:9000;\n  server docker_php-fpm_2:9000;\n  server docker_php-fpm_1:9001;\n  server docker_php-fpm_2:9001;\n}\n",
    );
    let names = names();
    let only =
        render(text, &Block { upstream: "backend", port: Some(9001), names: &names }, &members(&ONE), CallBy::Address);
    assert_eq!(
        only.unwrap(),
        "upstream backend {\n  server docker_php-fpm_1:9000;\n  server 172.18.0.7:9001; # handover: docker_php-fpm_1\n}\n"
    );
}

#[test]
fn ipv6_addresses_stand_in_brackets() {
    let member = Member { name: "docker_php-fpm_1".into(), address: "fd00::7".parse().unwrap() };
    let names = names();
    let block = Block { upstream: "backend", port: None, names: &names };
    let text = "upstream backend { server docker_php-fpm_1:9000;\n}";
    let told = render(text, &block, std::slice::from_ref(&member), CallBy::Address).unwrap();
    assert_eq!(told, "upstream backend { server [fd00::7]:9000; # handover: docker_php-fpm_1\n}");
    assert_eq!(render(&told, &block, &[member], CallBy::Name).unwrap(), text);
}

#[test]
fn the_whole_language_of_the_file_is_understood() {
    let text = r##"
# upstream backend { server commented:9000; }
http {
    log_format main '{"a": "}"; # no comment' escape=json;
    map $uri $x { default "}{"; ~^/\{x "#"; }
    set $y ${uri};
    content_by_lua_block { local x = "{" .. "}" -- it's
    }
    upstream "backend" {
        zone backend 64k;      # { not a block
        hash $request_uri consistent;
        server "docker_php-fpm_1:9000" weight=2;
        keepalive 16;
    }
    server { location / { proxy_pass http://backend; } }
}
stream { upstream dns { server docker_php-fpm_1:53; } }
"##;
    unchanged_by_name(text);
    let expected = text.replace(
        "server \"docker_php-fpm_1:9000\" weight=2;",
        "server 172.18.0.7:9000 weight=2; # handover: docker_php-fpm_1",
    );
    check(text, &ONE, CallBy::Address, &expected);
}

#[test]
fn without_a_port_the_usual_one_is_meant() {
    let names = names();
    let text = "upstream backend {\n server docker_php-fpm_1;\n}\n";
    let block = Block { upstream: "backend", port: Some(80), names: &names };
    let told = render(text, &block, &members(&ONE), CallBy::Address).unwrap();
    assert_eq!(told, "upstream backend {\n server 172.18.0.7; # handover: docker_php-fpm_1\n}\n");
}

#[track_caller]
fn refused(text: &str, what: &str, hint: &str) {
    let error = told(text, &ONE, CallBy::Name).unwrap_err();
    assert_eq!((error.what.as_str(), error.hint.as_str()), (what, hint));
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    refused("upstream backends { server x; }", "it has no upstream backend", "did you mean `backends`?");
    refused("upstream api { server x; } upstream cdn { server y; }", "it has no upstream backend", "it has: api, cdn");
    refused("", "it has no upstream backend", "there is none at all in it");
    refused(
        "upstream backend { server legacy:9000; server unix:/run/x; }",
        "no server of upstream backend is the service's: legacy:9000, unix:/run/x",
        "write `server docker_php-fpm_1;` there",
    );
    refused(
        "http { upstream backend { server php-fpm; } } stream { upstream backend { server php-fpm; } }",
        "it has more than one upstream backend",
        "give the service's one a name or a file of its own",
    );
    for broken in ["upstream backend { server php-fpm;", "}", "x 'y;", "content_by_lua_block { {"] {
        assert!(
            told(broken, &ONE, CallBy::Name).unwrap_err().what.starts_with("its text is not understood"),
            "{broken}"
        );
    }
}
