package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.temporal.io/api/enums/v1"
)

const (
	loopback    = "127.0.0.1"
	highestPort = 65535
	uiOffset    = 1000
)

type options struct {
	ip, uiIP         string
	port, uiPort     int
	headless         bool
	dbFilename       string
	logLevel         string
	namespaces       []string
	dynamicConfig    map[string]any
	searchAttributes map[string]enums.IndexedValueType
	pragmas          map[string]string
}

func parseOptions(arguments []string) (*options, error) {
	o := &options{
		namespaces:       []string{"default"},
		dynamicConfig:    map[string]any{},
		searchAttributes: map[string]enums.IndexedValueType{},
		pragmas:          map[string]string{},
	}
	set := flag.NewFlagSet("server start-dev", flag.ContinueOnError)
	set.StringVar(&o.ip, "ip", loopback, "address the gRPC service listens on")
	set.IntVar(&o.port, "port", 7233, "port of the gRPC service")
	set.StringVar(&o.uiIP, "ui-ip", "", "address the Web UI listens on (default: the same as --ip)")
	set.IntVar(&o.uiPort, "ui-port", 0, "port of the Web UI (default: --port + 1000)")
	set.BoolVar(&o.headless, "headless", false, "run without the Web UI")
	set.StringVar(&o.dbFilename, "db-filename", "", "SQLite file that keeps the state (default: in memory)")
	set.StringVar(&o.logLevel, "log-level", "warn", "debug, info, warn, error or never")
	set.Func("namespace", "one more namespace to create (default exists always)", o.addNamespace)
	set.Func("dynamic-config-value", "a server setting, KEY=JSON_VALUE", o.addDynamicConfig)
	set.Func("search-attribute", "a search attribute of a new database, NAME=TYPE", o.addSearchAttribute)
	set.Func("sqlite-pragma", "a SQLite pragma, NAME=VALUE", o.addPragma)
	if err := set.Parse(arguments); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	return o, o.complete()
}

// complete fills in what follows from other flags and refuses what cannot work.
func (o *options) complete() error {
	if o.ip == "localhost" {
		o.ip = loopback
	}
	if o.uiIP == "" {
		o.uiIP = o.ip
	}
	if o.uiPort == 0 {
		o.uiPort = min(o.port+uiOffset, highestPort)
	}
	if net.ParseIP(o.ip) == nil {
		return fmt.Errorf("--ip %s is not an IP address", o.ip)
	}
	switch o.logLevel {
	case "debug", "info", "warn", "error", "never":
	default:
		return fmt.Errorf("--log-level %s is none of debug, info, warn, error, never", o.logLevel)
	}
	if o.dbFilename != "" {
		if _, err := os.Stat(filepath.Dir(o.dbFilename)); err != nil {
			return fmt.Errorf("the folder of --db-filename cannot be used: %w", err)
		}
	}
	return nil
}

func (o *options) addNamespace(name string) error {
	if name != "default" {
		o.namespaces = append(o.namespaces, name)
	}
	return nil
}

func (o *options) addDynamicConfig(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found {
		return errors.New("it must be KEY=JSON_VALUE")
	}
	decoder := json.NewDecoder(bytes.NewBufferString(value))
	decoder.UseNumber()
	var parsed any
	if err := decoder.Decode(&parsed); err != nil {
		return fmt.Errorf("the value of %s is not JSON: %w", key, err)
	}
	if number, ok := parsed.(json.Number); ok {
		// The server takes int and float64 only.
		if whole, err := number.Int64(); err == nil {
			parsed = int(whole)
		} else if fraction, err := number.Float64(); err == nil {
			parsed = fraction
		}
	}
	o.dynamicConfig[key] = parsed
	return nil
}

func (o *options) addSearchAttribute(text string) error {
	name, kind, found := strings.Cut(text, "=")
	if !found {
		return errors.New("it must be NAME=TYPE")
	}
	for known, value := range enums.IndexedValueType_shorthandValue {
		if value != 0 && strings.EqualFold(known, kind) {
			o.searchAttributes[name] = enums.IndexedValueType(value)
			return nil
		}
	}
	return fmt.Errorf("%s is no type of search attribute", kind)
}

func (o *options) addPragma(text string) error {
	name, value, found := strings.Cut(text, "=")
	if !found {
		return errors.New("it must be NAME=VALUE")
	}
	o.pragmas[name] = value
	return nil
}

// checkPorts tells in one line which port is taken, before the server reports it in a hundred.
func (o *options) checkPorts() error {
	if err := checkPort(o.ip, o.port, "--port"); err != nil {
		return err
	}
	if o.headless {
		return nil
	}
	return checkPort(o.uiIP, o.uiPort, "--ui-port")
}

func checkPort(ip string, port int, name string) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is in use by another program: stop that program or choose another %s", port, name)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s port %d: %w", ip, port, err)
	}
	return listener.Close()
}
