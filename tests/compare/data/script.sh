#!/bin/bash
set -e
mkdir -p /opt/app
echo "script as $(id -un)" > /opt/app/ran
cat > /etc/app.env <<END
MODE=script
END
