#!/usr/bin/env bash
# Builds the wheel and the source archive into dist/, installs the wheel in a clean environment of every Python that is
# here and registers a pair with it, uses each extra alone, writes a bill of materials (CycloneDX), and audits by
# advisories.csv and, where it has its data, by pip-audit.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
torch=$(grep '^torch==' constraints.txt)

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build cyclonedx-bom pip-audit
rm -rf dist
"$work/tools/bin/python" -m build --outdir dist . >"$work/build.log" || { cat "$work/build.log"; exit 1; }
wheel=$(ls dist/*.whl) archive=$(ls dist/*.tar.gz)

# The folder of packages of the environment $1.
libraries() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# Installs $2 with the Python $1 into the environment $3, and registers a pair.
check() {
  "$1" -m venv "$3"
  "$3/bin/pip" install --quiet "$torch"
  "$3/bin/pip" install --quiet --constraint constraints.txt "$2"
  (cd "$work" && "$3/bin/python" "$OLDPWD/packaging/pair.py" pair \
    && "$3/bin/patchmorph" register pair/fixed.nii pair/moving.nii -o pair/results --model t1-brain --overwrite --quiet \
    && "$3/bin/patchmorph" apply pair/results/transform.h5 pair/moving.nii --reference pair/fixed.nii -o pair/warped.nii --quiet)
  echo "$("$3/bin/patchmorph" --version) from $(basename "$2") with $("$1" --version)"
}

found=""
for python in python3.11 python3.12 python3.13 python3.14; do
  "$python" -c pass 2>/dev/null || continue
  found=${found:-$python}
  check "$python" "$wheel" "$work/$python"
done
check "$found" "$archive" "$work/archive"

# Each extra alone, in an environment that finds what the wheel alone brings in the one above.
packages=$(libraries "$work/$found")
for extra in report monai train formats large itk; do
  "$found" -m venv "$work/extra"
  echo "$packages" >"$(libraries "$work/extra")/base.pth"
  "$work/extra/bin/pip" install --quiet --constraint constraints.txt "$wheel[$extra]"
  "$work/extra/bin/python" packaging/extra.py "$extra" "$work/pair"
  "$work/tools/bin/python" packaging/audit.py "$(libraries "$work/extra")"
  rm -rf "$work/extra"
done

"$work/tools/bin/cyclonedx-py" environment --output-reproducible --pyproject pyproject.toml \
  --output-file dist/sbom.cdx.json "$work/$found/bin/python"
echo "dist/sbom.cdx.json: $(grep -c '"purl"' dist/sbom.cdx.json) packages"
"$work/tools/bin/python" packaging/audit.py "$packages"
# Strict: a package without data counts as a failure, else an audit of nothing would pass.
if "$work/tools/bin/pip-audit" --strict --path "$packages" >"$work/audit.log" 2>&1; then
  echo "pip-audit: no known vulnerabilities"
elif grep '^Found .* known vulnerabilit' "$work/audit.log"; then
  exit 1
else
  echo "pip-audit: not passed ($(tail -n 1 "$work/audit.log"))"
fi
