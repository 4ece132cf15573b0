package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"

	"github.com/google/uuid"
	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
)

const (
	clusterName = "active"
	storeName   = "sqlite"
)

// buildServer prepares the database and assembles the four services in this process.
func buildServer(o *options) (temporal.Server, error) {
	store, err := prepareStore(o)
	if err != nil {
		return nil, err
	}
	cfg := &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     storeName,
			VisibilityStore:  storeName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{storeName: {SQL: store}},
		},
		ClusterMetadata: clusterMetadata(o),
		Services:        map[string]config.Service{},
	}
	cfg.DCRedirectionPolicy.Policy = "noop"
	cfg.Archival.History.State = config.ArchivalDisabled
	cfg.Archival.Visibility.State = config.ArchivalDisabled
	cfg.NamespaceDefaults.Archival.History.State = config.ArchivalDisabled
	cfg.NamespaceDefaults.Archival.Visibility.State = config.ArchivalDisabled
	cfg.PublicClient.HostPort = o.frontendAddress()
	hosts, err := addServices(cfg, o)
	if err != nil {
		return nil, err
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(newLogger(o.logLevel)),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithDynamicConfigClient(dynamicConfig(o)),
	)
	if err != nil {
		return nil, fmt.Errorf("the server's configuration was refused: %w", err)
	}
	return server, nil
}

// frontendAddress is where programs on this machine reach the gRPC service.
func (o *options) frontendAddress() string {
	ip := o.ip
	if net.ParseIP(ip).IsUnspecified() {
		ip = loopback
	}
	return net.JoinHostPort(ip, strconv.Itoa(o.port))
}

func clusterMetadata(o *options) *cluster.Config {
	return &cluster.Config{
		FailoverVersionIncrement: 10,
		MasterClusterName:        clusterName,
		CurrentClusterName:       clusterName,
		ClusterInformation: map[string]cluster.ClusterInformation{
			clusterName: {
				Enabled:                true,
				InitialFailoverVersion: 1,
				RPCAddress:             o.frontendAddress(),
				ClusterID:              uuid.NewString(),
			},
		},
	}
}

// addServices gives the frontend the port that was asked for and every other service a free one.
func addServices(cfg *config.Config, o *options) (map[primitives.ServiceName]static.Hosts, error) {
	hosts := map[primitives.ServiceName]static.Hosts{
		primitives.FrontendService: static.SingleLocalHost(o.frontendAddress()),
	}
	cfg.Services[string(primitives.FrontendService)] = config.Service{RPC: config.RPC{GRPCPort: o.port, BindOnIP: o.ip}}
	for _, name := range []primitives.ServiceName{primitives.HistoryService, primitives.MatchingService, primitives.WorkerService} {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		cfg.Services[string(name)] = config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}}
		hosts[name] = static.SingleLocalHost(net.JoinHostPort(loopback, strconv.Itoa(port)))
	}
	return hosts, nil
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, fmt.Errorf("no free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// prepareStore makes the SQLite schema where it is missing, and the namespaces.
func prepareStore(o *options) (*config.SQL, error) {
	store := &config.SQL{PluginName: sqliteplugin.PluginName, ConnectAttributes: map[string]string{}}
	if o.dbFilename == "" {
		store.DatabaseName = uuid.NewString()
		store.ConnectAttributes["mode"] = "memory"
		store.ConnectAttributes["cache"] = "shared"
	} else {
		store.DatabaseName = o.dbFilename
		store.ConnectAttributes["mode"] = "rwc"
	}
	for name, value := range o.pragmas {
		store.ConnectAttributes[name] = value
	}
	if err := setUpSchema(store, o.dbFilename); err != nil {
		return nil, fmt.Errorf("the database %s cannot be set up: %w", o.dbFilename, err)
	}
	for _, name := range o.namespaces {
		namespace, err := sqlite.NewNamespaceConfig(clusterName, name, false, o.searchAttributes)
		if err != nil {
			return nil, fmt.Errorf("the namespace %s cannot be made: %w", name, err)
		}
		if err := sqlite.CreateNamespaces(store, namespace); err != nil {
			return nil, fmt.Errorf("the namespace %s cannot be made: %w", name, err)
		}
	}
	return store, nil
}

// setUpSchema makes the tables of a new file. It works on a file of another name, put in place when it is whole: a start
// that is interrupted leaves no half-made database. In memory the server does it by itself.
func setUpSchema(store *config.SQL, filename string) error {
	if filename == "" {
		return nil
	}
	if _, err := os.Stat(filename); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	building := filename + ".new"
	for _, leftover := range []string{building, building + "-wal", building + "-shm", building + "-journal"} {
		if err := os.Remove(leftover); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	draft := *store
	draft.DatabaseName = building
	draft.ConnectAttributes = map[string]string{"mode": "rwc"} // one plain file, whatever journal is used later
	if err := sqlite.SetupSchema(&draft); err != nil {
		return err
	}
	return os.Rename(building, filename)
}

func dynamicConfig(o *options) dynamicconfig.StaticClient {
	client := dynamicconfig.StaticClient{}
	for key, value := range o.dynamicConfig {
		client[dynamicconfig.MakeKey(key)] = value
	}
	return client
}

func newLogger(level string) log.Logger {
	if level == "never" {
		return log.NewNoopLogger()
	}
	return log.NewZapLogger(log.BuildZapLogger(log.Config{Level: level, Format: "console"}))
}

// buildUI returns nil for a headless server.
func buildUI(o *options) *uiserver.Server {
	if o.headless {
		return nil
	}
	return uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		Host:                o.uiIP,
		Port:                o.uiPort,
		TemporalGRPCAddress: o.frontendAddress(),
		EnableUI:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true},
		HideLogs:            true,
		DisableNewsFetch:    true,
	}))
}
