package main

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// project reads docker-compose.yml as docker compose does, with these variables set.
func project(t *testing.T, variables ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join("..", "..", "docker-compose.yml")}, cli.WithEnv(variables), cli.WithoutEnvironmentResolution)
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(context.Background())
}

var composeSecrets = []string{"CLICKHOUSE_PASSWORD=a-password-of-the-test", "TOKEN_SECRETS=a-token-secret-of-the-test"}

// The composition has no place to try it where the tests run, so it is held against what it must agree with: the settings and commands.
func TestComposeFileFitsTheBinary(t *testing.T) {
	p, err := project(t, composeSecrets...)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	sections := reflect.ValueOf(Config{})
	for i := range sections.NumField() {
		for _, s := range settings(sections.Field(i), nil) {
			known[s.name] = true
		}
	}
	var roles []string
	for name, service := range p.Services {
		if service.Build == nil {
			continue
		}
		roles = append(roles, name)
		environ := []string{}
		for variable, value := range service.Environment {
			if !known[variable] {
				t.Errorf("%s: %s is no setting of ours", name, variable)
			}
			if value != nil {
				environ = append(environ, variable+"="+*value)
			}
		}
		if len(service.Command) != 1 || service.Command[0] != name {
			t.Errorf("service %s runs %v", name, service.Command)
		}
		var checked []string
		if name != "migrate" {
			checked = []string{name}
			if service.HealthCheck == nil {
				t.Errorf("%s has no health check", name)
			}
			if service.DependsOn["migrate"].Condition != types.ServiceConditionCompletedSuccessfully {
				t.Errorf("%s does not wait for migrate", name)
			}
		}
		cfg, err := loadConfig(environ, checked...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for part, at := range map[string]string{"kafka": cfg.Kafka.Brokers[0], "clickhouse": cfg.ClickHouse.Hosts[0], "registry": cfg.Registry.URL[0]} {
			if host := strings.TrimPrefix(at, "http://"); !strings.HasPrefix(host, part+":") {
				t.Errorf("%s looks for %s at %s", name, part, at)
			}
		}
	}
	slices.Sort(roles)
	if want := []string{"ingest", "migrate", "process", "sink"}; !slices.Equal(roles, want) {
		t.Errorf("the services that we build are %v, not %v", roles, want)
	}
	for _, part := range []string{"kafka", "registry", "clickhouse"} {
		service := p.Services[part]
		if service.HealthCheck == nil {
			t.Errorf("%s has no health check", part)
		}
		if service.DependsOn == nil && len(service.Volumes) == 0 { // the registry keeps its schemas in Kafka
			t.Errorf("%s keeps its data in no volume", part)
		}
	}
}

// A password that nobody chose is one that everybody knows.
func TestComposeFileHasNoDefaultSecrets(t *testing.T) {
	for i, secret := range composeSecrets {
		name, _, _ := strings.Cut(secret, "=")
		if _, err := project(t, slices.Delete(slices.Clone(composeSecrets), i, i+1)...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if strings.Contains(key, "PASSWORD") && !strings.Contains(key, " ") && !strings.HasPrefix(strings.TrimSpace(value), "${") {
			t.Errorf("a secret in the file: %s", line)
		}
	}
}
